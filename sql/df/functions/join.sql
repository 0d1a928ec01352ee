-- Both at once; the result is the array of theirs. As a & b.
create or replace function df.join(a text, b text) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('node_type', 'JOIN', 'left_node', df._ensure(a), 'right_node', df._ensure(b))::text
$$;
