-- The result of a completed instance, JSON as text; null for any other.
create or replace function df.result(instance_id text) returns text
language sql stable security definer strict
set search_path = pg_catalog, pg_temp
as $$
    select df._output(i.id) from @extschema@.instances i where i.id = df._find(instance_id) and i.status = 'completed'
$$;
