-- Deletes up to `most` history rows of runs that lie behind living instances which have continued as new, once they are
-- older than ended instances of that workflow are kept.
-- Locks: the removed rows, which nobody else writes or reads for running.
-- Returns: how many; less than `most` when nothing is left. Null while another session is at it.
create or replace function @extschema@.sweep_runs(most int) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    usual interval;
    deleted int;
begin
    if not pg_try_advisory_xact_lock(@extschema@.lock_class(3), 1) then
        return null;
    end if;
    select s.retention into strict usual from @extschema@.settings s;
    with old as materialized (
        select o.instance_id, o.event_id
          from (select i.id, i.first_event, i.workflow, i.version
                  from @extschema@.instances i
                 where i.first_event > 0
                   and i.status not in ('completed', 'failed', 'cancelled', 'timed_out') offset 0) i
          left join @extschema@.workflows w on w.name = i.workflow and w.version = i.version
         cross join lateral (
            select h.instance_id, h.event_id
              from @extschema@.history h
             where h.instance_id = i.id and h.event_id < i.first_event
               and h.recorded_at < now() - @extschema@.keep_for(w.policies, usual)
             order by h.event_id
             limit most
         ) o
         limit most
    )
    delete from @extschema@.history h
     using old
     where h.instance_id = old.instance_id and h.event_id = old.event_id;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
