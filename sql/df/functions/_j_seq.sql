-- a ~> b of definitions: their steps one after another.
create or replace function df._j_seq(a jsonb, b jsonb) returns jsonb
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('op', 'seq', 'steps',
        case when a - 'op' - 'steps' = '{}' and a ->> 'op' = 'seq' then a -> 'steps' else jsonb_build_array(a) end
        || case when b - 'op' - 'steps' = '{}' and b ->> 'op' = 'seq' then b -> 'steps' else jsonb_build_array(b) end)
$$;
