-- @> a of a definition: for ever.
create or replace function df._j_loop(a jsonb) returns jsonb
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('op', 'loop', 'body', a)
$$;
