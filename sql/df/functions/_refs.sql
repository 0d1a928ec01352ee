-- Whether a text has references in it.
create or replace function df._refs(value text) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select value ~ '\$[A-Za-z_]'
$$;
