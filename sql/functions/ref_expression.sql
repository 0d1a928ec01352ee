-- The SQL expression that a reference in a query becomes when it is of this type (0: text).
--
-- It takes its value out of $1, the environment of results, at run time; no value is in it. Every name in it is qualified.
-- Arguments: a part of `scan_query` that is a reference.
create or replace function @extschema@.ref_expression(part jsonb, type oid)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    path constant text := quote_literal((array(select jsonb_array_elements_text(@extschema@.env_path(part))))::text) || '::pg_catalog.text[]';
    json constant text := format('($1 operator(pg_catalog.#>) %s)', path);
    plain constant text := format('($1 operator(pg_catalog.#>>) %s)', path);
    t record;
begin
    if coalesce(type, 0) = 0 or type = 'text'::regtype then
        return plain;
    end if;
    select * into t from @extschema@.type_kind(type);
    if t.kind = 'json' then
        -- JSON's null is SQL's.
        return format(case when (part ->> 'parse')::boolean then
                '(case pg_catalog.jsonb_typeof(%1$s) when ''null'' then null when ''string'' then %2$s::%3$s else %1$s::%3$s end)'
            else '(case pg_catalog.jsonb_typeof(%1$s) when ''null'' then null else %1$s::%3$s end)' end, json, plain, t.name);
    elsif t.kind in ('array', 'record') then
        -- The cast makes it a value: any ((select ...)) would ask for rows.
        return format('((select r.v from pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object(''v'', %1$s)) as r (v %2$s))::%2$s)',
                      json, t.name);
    end if;
    return format('(%s::%s)', plain, t.name);
end
$$;
