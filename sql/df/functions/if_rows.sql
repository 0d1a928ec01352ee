-- One or the other branch, as a result named before has rows or has none.
create or replace function df.if_rows(result_name text, then_branch text, else_branch text) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('node_type', 'IF', 'left_node', df._ensure(then_branch),
                              'right_node', df._ensure(else_branch),
                              'query', jsonb_build_object('condition_type', 'result_has_rows',
                                                          'result_name', result_name)::text)::text
$$;
