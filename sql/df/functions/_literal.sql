-- A text as a literal of SQL, in which references are still found.
create or replace function df._literal(value text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select '''' || replace(value, '''', '''''') || ''''
$$;
