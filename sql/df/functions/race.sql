-- Both at once; the first to end is the result, the other is cancelled. As a | b.
create or replace function df.race(a text, b text) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('node_type', 'RACE', 'left_node', df._ensure(a), 'right_node', df._ensure(b))::text
$$;
