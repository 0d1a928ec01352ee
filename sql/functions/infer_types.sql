-- Which types PostgreSQL takes the places of a statement for, where only some are given (0: not given).
--
-- The statement is analysed under the workflow's search_path, by `prepare`, and never run. That it is one statement does not
-- rest on how we read it: the server itself is asked first, by opening a cursor, which takes no more than one.
-- Arguments: the statement as `join_parts` makes it for this. Returns: the types in order; or why there are none.
create or replace function @extschema@.infer_types(
    statement text, given oid[], search_path text, out types oid[], out state text, out problem text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set standard_conforming_strings = on
as $$
declare
    probe text := 'pgdurable ' || gen_random_uuid();
    names text[] := array(select case when t.oid is not null then format('%I.%I', n.nspname, t.typname) end
                            from unnest(given) with ordinality as g (type, place)
                            left join pg_type t on t.oid = g.type
                            left join pg_namespace n on n.oid = t.typnamespace
                           order by g.place);
    single text := statement;
    text text := statement;
    place int;
    only_one text;
begin
    for place in 1 .. cardinality(given) loop
        single := replace(single, E'\x01' || place || E'\x01', case when names[place] is null then ' null '
                                                               else format(' null::%s ', names[place]) end);
        text := replace(text, E'\x01' || place || E'\x01', format(' $%s ', place));
    end loop;
    text := format('prepare %I', probe) || case when cardinality(names) > 0 then
                format(' (%s)', array_to_string(names, ', ', 'pg_catalog.unknown')) else '' end || ' as ' || text;
    single := 'explain ' || single;  -- not below: there the operators are looked for in the workflow's search_path
    begin
        perform pg_catalog.set_config('search_path', infer_types.search_path, true);
        for only_one in execute single loop
            exit;
        end loop;
        execute text;
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        select p.parameter_types::oid[] into types from pg_prepared_statements p where p.name = probe;
        execute format('deallocate %I', probe);
    exception when others then
        get stacked diagnostics state = returned_sqlstate, problem = message_text;
        types := null;
    end;
end
$$;
