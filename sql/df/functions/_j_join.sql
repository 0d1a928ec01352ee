-- a & b of definitions: both at once.
create or replace function df._j_join(a jsonb, b jsonb) returns jsonb
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('op', 'parallel', 'branches',
        case when a - 'op' - 'branches' = '{}' and a ->> 'op' = 'parallel' then a -> 'branches' else jsonb_build_array(a) end
        || jsonb_build_array(b))
$$;
