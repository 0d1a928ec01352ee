-- Deletes history whose instance has been removed, from id `since` up to below `before`: for partitions that something
-- keeps from being dropped. One small step: looks at up to `most_looked` instances' history, deletes about `most` rows.
--
-- Returns: the last id looked at (null: none was left), how many, and the rows deleted. Null in `looked` while another
-- session is at it.
create or replace function @extschema@.sweep_orphans(since uuid, before uuid, most_looked int, most int)
returns table (last uuid, looked int, deleted int)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place uuid := since;
    is_first boolean := true;
begin
    if not pg_try_advisory_xact_lock(@extschema@.lock_class(3), 1) then
        return next;
        return;
    end if;
    looked := 0;
    deleted := 0;
    while looked < most_looked loop
        -- From one instance to the next along the primary key, however many rows each has.
        if is_first then
            select h.instance_id into place
              from @extschema@.history h where h.instance_id >= place and h.instance_id < before
             order by h.instance_id limit 1;
        else
            select h.instance_id into place
              from @extschema@.history h where h.instance_id > place and h.instance_id < before
             order by h.instance_id limit 1;
        end if;
        exit when not found;
        is_first := false;
        looked := looked + 1;
        if exists (select from @extschema@.instances i where i.id = place) then
            last := place;
        else
            deleted := deleted + @extschema@.sweep_history(array[place], most - deleted);
            -- This one may have more rows: it is met again.
            exit when deleted >= most;
            last := place;
        end if;
    end loop;
    return next;
end
$$;
