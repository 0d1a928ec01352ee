-- One of the translated parts of a graph, by the id of its node.
create or replace function df._part(parts jsonb[], id text) returns jsonb
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select parts[('x' || id)::bit(32)::int + 1]
$$;
