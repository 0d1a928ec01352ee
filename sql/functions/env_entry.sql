-- What the environment of results holds of one value, for the statements that `bind` makes:
-- `v`: `$x` (of rows the first column of the first; else the value); `f`: what `$x.f` looks into (the fields of the first row,
-- or of the object; of rows also `row_count`); `r`: the rows of `$x.*`; `c`: the names of their columns, in order.
create or replace function @extschema@.env_entry(value jsonb)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when jsonb_typeof(value) = 'object' and value ? 'row_count' and coalesce(jsonb_typeof(value -> 'rows'), 'array') = 'array'
             and coalesce(jsonb_typeof(value -> 'rows' -> 0), 'object') = 'object' then
            jsonb_build_object(
                'v', value -> 'rows' -> 0 -> coalesce(value -> 'columns' ->> 0,
                    (select min(k) from jsonb_object_keys(value -> 'rows' -> 0) as k)),
                'f', jsonb_build_object('row_count', value -> 'row_count') || coalesce(value -> 'rows' -> 0, '{}'),
                'r', coalesce(value -> 'rows', '[]'), 'c', coalesce(value -> 'columns', '[]'))
        when jsonb_typeof(value) = 'object' then
            jsonb_build_object('v', value, 'f', value, 'r', jsonb_build_array(value), 'c', '[]'::jsonb)
        when jsonb_typeof(value) = 'array' then
            jsonb_build_object('v', value, 'f', value, 'c', '[]'::jsonb,
                'r', (select coalesce(jsonb_agg(case when jsonb_typeof(e) = 'object' then e else jsonb_build_object('value', e) end
                                                order by n), '[]')
                        from jsonb_array_elements(value) with ordinality as u (e, n)))
        else jsonb_build_object('v', value) end
$$;
