-- Makes of a query with references a statement over one parameter, $1: the environment of results (see `env_entry`).
--
-- The types are those PostgreSQL infers from where the references stand. Values never become part of the statement's text.
-- Arguments: the query; the search_path it is meant under (null: "$user", public).
-- Returns: `text`, the statement; `strict`, the paths in the environment that must be there and not null; `known`, those of
-- which this holds only if there is such a variable; `ints`, those whose value has to be a whole number for `text` to fit;
-- `late`: the types depend on the values, or on tables that are not there yet: then `bind_late` makes the text;
-- `mode`: `rows` if it returns rows, else `plain`. `fit` uses all of them.
-- Raises: PGD05 a quote or comment that is not closed, a second statement, `$1`.
create or replace function @extschema@.bind(query text, search_path text default null)
returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    scanned constant jsonb := @extschema@.scan_query(query);
    path constant text := coalesce(search_path, '"$user", public');
    parts constant jsonb := scanned -> 'parts';
    places jsonb;                -- what takes a parameter
    answer jsonb;
    late boolean;
    types oid[];
    statement text;
begin
    perform @extschema@.check_query(scanned, query);
    select coalesce(jsonb_agg(p.part order by p.n), '[]') into places
      from jsonb_array_elements(parts) with ordinality as p (part, n)
     where jsonb_typeof(p.part) = 'object' and not p.part ? 'rows';
    answer := jsonb_build_object('mode', case when (scanned ->> 'rows')::boolean then 'rows' else 'plain' end)
        || (select jsonb_build_object(
                'strict', coalesce(jsonb_agg(distinct r.path) filter (where not r.safe and not r.inside), '[]'),
                'known', coalesce(jsonb_agg(distinct r.path) filter (where not r.safe and r.inside), '[]'))
              from @extschema@.query_refs(parts) as r);
    late := exists (select from jsonb_array_elements(parts) as p where p ? 'rows');
    if not late and places <> '[]' then
        late := coalesce(scanned ->> 'verb', '') not in ('select', 'insert', 'update', 'delete', 'merge', 'values', 'table');
        if not late then
            statement := @extschema@.join_parts(parts, null, true);
            select t.types into types from @extschema@.settle_types(
                statement, places, array_fill(0::oid, array[jsonb_array_length(places)]), path, scanned ->> 'verb') as t;
            late := types is null or 0 = any (types);
        end if;
    end if;
    if late then
        return answer || '{"late": true, "text": null, "ints": []}';
    end if;
    return answer || jsonb_build_object('late', false, 'text', @extschema@.join_parts(parts, types, false),
        'ints', (select coalesce(jsonb_agg(distinct @extschema@.env_path(p.part)), '[]')
                   from jsonb_array_elements(places) with ordinality as p (part, n)
                  where p.part ? 'ref' and types[p.n] in (20, 21, 23)));
end
$$;
