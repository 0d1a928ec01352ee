-- Declares a worker dead, if it has not beaten since the caller last looked.
--
-- Locks, in order: the dead worker's fence, exclusively; its row. A transaction of the dead worker that still
-- runs holds the fence shared: it is terminated where the caller may, else waited for by the next attempt.
-- A worker that has beaten meanwhile is left alone, and so is whoever else is taking it over (exclusive holder).
-- All workers are given a hint, so that they share what it held.
-- Returns: whether the worker is dead now by this call.
create or replace function @extschema@.take_over(worker bigint, seen_beat bigint, successor bigint)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from @extschema@.workers w
      where w.id = worker and w.beat = seen_beat and w.state in ('alive', 'draining');
    if not found then
        return false;
    end if;
    if not pg_try_advisory_xact_lock(@extschema@.lock_class(0), worker::int) then
        begin
            perform pg_terminate_backend(l.pid)
               from pg_locks l
              where l.locktype = 'advisory'
                and l.database = (select d.oid from pg_database d where d.datname = current_database())
                and l.classid = @extschema@.lock_class(0)::oid
                and l.objid = worker::oid
                and l.objsubid = 2
                and l.mode = 'ShareLock'
                and l.granted
                and l.pid <> pg_backend_pid();
        exception when insufficient_privilege then
            null;
        end;
        return false;
    end if;
    update @extschema@.workers w
       set state = 'dead', ended_at = now(), successor = take_over.successor
     where w.id = worker and w.beat = seen_beat and w.state in ('alive', 'draining');
    if not found then
        return false;
    end if;
    delete from @extschema@.fences f where f.worker = take_over.worker;
    perform pg_notify(@extschema@.channel(), 'due');
    return true;
end
$$;
