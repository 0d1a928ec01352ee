-- The status of an instance: pending, running, completed, failed, cancelled; null: no such instance of the caller.
create or replace function df.status(instance_id text) returns text
language sql stable security definer strict
set search_path = pg_catalog, pg_temp
as $$
    select df._status(df._find(instance_id))
$$;
