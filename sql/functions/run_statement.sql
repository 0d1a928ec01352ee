-- Runs the statement of a step, with the rights of whoever calls this, under the search_path of its workflow.
--
-- Arguments: `statement`: its text, over one parameter, `env`: the variables (see bind); `plain`: it gives no rows.
-- Returns: its result: `row_count`, and where it gives rows `rows` and the names of their `columns`, in order.
-- It builds nothing of data: the text is the definition's.
create or replace function @extschema@.run_statement(statement text, env jsonb, plain boolean, path text) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
    rows jsonb[];
    n bigint;
begin
    -- From here on no name is resolved but in full: the path may be anybody's. It ends with this function.
    perform set_config('search_path', path, true);
    if plain then
        execute statement using env;
        get diagnostics n = row_count;
        return pg_catalog.jsonb_build_object('row_count', n);
    end if;
    for one in execute statement using env loop
        rows := pg_catalog.array_append(rows, pg_catalog.to_jsonb(one));
    end loop;
    return pg_catalog.jsonb_build_object(
        'rows', coalesce(pg_catalog.to_jsonb(rows), '[]'),
        'columns', case when rows is null then '[]' else (
            select pg_catalog.jsonb_agg(k.key) from pg_catalog.json_object_keys(pg_catalog.row_to_json(one)) as k (key)) end,
        'row_count', coalesce(pg_catalog.cardinality(rows), 0));
end
$$;
