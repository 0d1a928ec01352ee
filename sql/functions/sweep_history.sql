-- Deletes up to about `most` history rows of instances that have been removed; of ids that are still there, nothing.
-- Returns: how many; less than `most` when nothing is left. Null while another session is at it.
create or replace function @extschema@.sweep_history(ids uuid[], most int) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    one uuid;
    edge int;
    n int;
    deleted int := 0;
begin
    if not pg_try_advisory_xact_lock(@extschema@.lock_class(3), 1) then
        return null;
    end if;
    foreach one in array ids loop
        continue when exists (select from @extschema@.instances i where i.id = one);
        -- Row by row of one instance, so that no plan can be wrong: its partition, by the primary key.
        select h.event_id into edge
          from @extschema@.history h where h.instance_id = one order by h.event_id offset most - deleted limit 1;
        if found then
            delete from @extschema@.history h where h.instance_id = one and h.event_id < edge;
            return most;
        end if;
        delete from @extschema@.history h where h.instance_id = one;
        get diagnostics n = row_count;
        deleted := deleted + n;
    end loop;
    return deleted;
end
$$;
