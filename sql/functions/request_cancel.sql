-- What the end of a parent asks its children, and a worker those that its code gives up: as cancel. A reason may be long.
create or replace function @extschema@.request_cancel(target uuid, reason text default null) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.cancel_instance(target, left(reason, 1000))
$$;
