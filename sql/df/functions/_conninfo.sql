-- A value for a connection string of libpq.
create or replace function df._conninfo(value text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select '''' || replace(replace(value, '\', '\\'), '''', '\''') || ''''
$$;
