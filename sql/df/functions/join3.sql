-- All three at once; the result is the array of theirs.
create or replace function df.join3(a text, b text, c text) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('node_type', 'JOIN', 'left_node', df._ensure(a), 'right_node', df._ensure(b),
                              'extra_nodes', jsonb_build_array(df._ensure(c)))::text
$$;
