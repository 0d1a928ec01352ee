-- The schema that holds _worker_ready.
create or replace function df.duroxide_schema() returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select 'df'::text
$$;
