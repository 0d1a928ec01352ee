-- The place of a node among those of its graph, from 1, by its id.
create or replace function df._place(id text) returns int
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select ('x' || id)::bit(32)::int + 1
$$;
