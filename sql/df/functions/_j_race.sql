-- a | b of definitions: the first to end wins.
create or replace function df._j_race(a jsonb, b jsonb) returns jsonb
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('op', 'race', 'branches',
        case when a - 'op' - 'branches' = '{}' and a ->> 'op' = 'race' then a -> 'branches' else jsonb_build_array(a) end
        || jsonb_build_array(b))
$$;
