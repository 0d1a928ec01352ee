-- The version of pgdurable whose schema df this is.
create or replace function df.version() returns text
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select m.library from @extschema@.migrations m order by m.version desc limit 1
$$;
