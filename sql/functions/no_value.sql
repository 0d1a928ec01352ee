-- Raises PGD20: what a reference means is not there, and what to do. `path` is its path in the environment.
create or replace function @extschema@.no_value(path text[], env jsonb)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    source constant text := '$' || path[1]
        || case when path[2] = 'r' then '.*' when path[2] = 'f' then '.' || array_to_string(path[3:], '.') else '' end;
    entry constant jsonb := env -> path[1];
begin
    raise exception using errcode = 'PGD20',
        message = format('%s has no value: %s', source, case
            when entry is null then format('there is no result or input called %s', path[1])
            when entry -> 'r' = '[]' then format('%s has no rows', path[1])
            when entry #> path is null and path[2] = 'f' and entry #> path[2:] is null then format('%s has no field %s', path[1],
                array_to_string(path[3:], '.'))
            else 'it is null' end),
        detail = case when path[2] = 'f' and jsonb_typeof(entry -> 'f') = 'object' then
                'Its fields: ' || coalesce((select string_agg(k, ', ' order by k) from jsonb_object_keys(entry -> 'f') as k), 'none')
            else 'There are: ' || coalesce((select string_agg(k, ', ' order by k) from jsonb_object_keys(env) as k), 'none') end,
        hint = format('Write %s? where null will do, or branch on it with "if" first.', rtrim(source, '.*'));
end
$$;
