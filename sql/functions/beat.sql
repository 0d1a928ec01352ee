-- Renews a worker's lease and looks at the others.
--
-- Locks: the worker's own row.
-- Returns: one row per other worker that is not known to have ended, with its beat counter, whether its
-- lease has run out by the database's clock, and whether a session that marked its presence is gone.
-- Raises: PGD01 when the worker itself was taken over.
create or replace function @extschema@.beat(worker bigint, lease interval, new_stats jsonb default null)
returns table (other bigint, other_beat bigint, expired boolean, absent boolean)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update @extschema@.workers w
       set beat = w.beat + 1, lease_until = now() + lease, stats = coalesce(new_stats, w.stats)
     where w.id = worker and w.state in ('alive', 'draining');
    if not found then
        raise exception using
            errcode = 'PGD01',
            message = format('worker %s no longer holds its lease', worker),
            hint = 'Another worker took its instances over; rejoin under a new incarnation.';
    end if;
    return query
        select w.id, w.beat, w.lease_until < now(),
               w.marked and not exists (
                   select from pg_locks l
                    where l.locktype = 'advisory'
                      and l.database = (select d.oid from pg_database d where d.datname = current_database())
                      and l.classid = @extschema@.lock_class(1)::oid
                      and l.objid = w.id::oid
                      and l.objsubid = 2
                      and l.granted)
          from @extschema@.workers w
         where w.state in ('alive', 'draining') and w.id <> worker;
end
$$;
