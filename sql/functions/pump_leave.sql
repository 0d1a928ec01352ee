-- Ends a pump: what it still holds is free to be claimed, and its session's mark is gone. What holds nothing leaves no row.
create or replace function @extschema@.pump_leave(me bigint) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform @extschema@.leave_worker(me);
    delete from @extschema@.workers w
     where w.id = me and not exists (select from @extschema@.instances i where i.owner in (me, -me));
    perform pg_advisory_unlock(@extschema@.lock_class(1), me::int);
end
$$;
