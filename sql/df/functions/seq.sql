-- First a, then b; the result is that of b. As a ~> b.
create or replace function df.seq(a text, b text) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('node_type', 'THEN', 'left_node', df._ensure(a), 'right_node', df._ensure(b))::text
$$;
