-- One or the other branch, as the result of the condition says. As condition ?> then_branch !> else_branch.
create or replace function df.if(condition text, then_branch text, else_branch text) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('node_type', 'IF', 'condition_node', df._ensure(condition),
                              'left_node', df._ensure(then_branch), 'right_node', df._ensure(else_branch))::text
$$;
