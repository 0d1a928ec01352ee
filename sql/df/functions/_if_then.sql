-- condition ?> then_branch: half of a node, which !> completes.
create or replace function df._if_then(condition text, then_branch text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('_partial_if', true, 'condition', condition, 'then_branch', then_branch)::text
$$;
