-- a ?> b of definitions: b if a holds.
create or replace function df._j_then(a jsonb, b jsonb) returns jsonb
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('op', 'if', 'when', a, 'then', b)
$$;
