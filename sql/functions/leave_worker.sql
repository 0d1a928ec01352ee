-- Ends a worker's incarnation in good order: what it still owns is free to be claimed at once.
create or replace function @extschema@.leave_worker(worker bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_xact_lock(@extschema@.lock_class(0), worker::int);
    delete from @extschema@.fences f where f.worker = leave_worker.worker;
    update @extschema@.workers w set state = 'stopped', ended_at = now()
     where w.id = worker and w.state in ('alive', 'draining');
    perform pg_notify(@extschema@.channel(), 'due');
end
$$;
