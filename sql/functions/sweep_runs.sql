-- Deletes up to `most` history rows of runs that lie behind living instances which have continued as new, once they are
-- older than ended instances of that workflow are kept; and the large payloads that only these referred to.
-- Locks: the removed rows, which nobody else writes or reads for running.
-- Returns: how many; less than `most` when nothing is left. Null while another session is at it.
create or replace function @extschema@.sweep_runs(most int) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    usual interval;
    deleted int;
    ids uuid[];
    hashes text[];
begin
    if not pg_try_advisory_xact_lock(@extschema@.lock_class(3), 1) then
        return null;
    end if;
    usual := @extschema@.setting('retention')::interval;
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
    ), gone as (
        delete from @extschema@.history h
         using old
         where h.instance_id = old.instance_id and h.event_id = old.event_id
        returning h.instance_id, h.payload #>> '{$pgdurable:aside,hash}' as hash
    )
    select count(*), array_agg(g.instance_id) filter (where g.hash is not null),
           array_agg(g.hash) filter (where g.hash is not null)
      into deleted, ids, hashes
      from gone g;
    -- A payload that is written again has a new time: whoever does so after this statement's snapshot keeps it.
    delete from @extschema@.payloads p
     using (select distinct u.id, u.hash from unnest(ids, hashes) as u (id, hash)) u
     where p.instance_id = u.id and p.hash = u.hash and p.written_at < now() - interval '1 hour'
       and not exists (select from @extschema@.history h
                        where h.instance_id = u.id and h.payload #>> '{$pgdurable:aside,hash}' = u.hash)
       and not exists (select from @extschema@.events e
                        where e.instance_id = u.id and e.payload #>> '{$pgdurable:aside,hash}' = u.hash)
       and not exists (select from @extschema@.instances i
                        where i.id = u.id and u.hash in (i.input #>> '{$pgdurable:aside,hash}',
                                                         i.output #>> '{$pgdurable:aside,hash}'));
    return deleted;
end
$$;
