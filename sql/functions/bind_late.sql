-- The statement that `bind` leaves for later: its types are chosen when the values are there.
--
-- A text or a null takes the type of the place it stands in, as a string in a query does; a number is an integer, bigint or
-- numeric, true a boolean, an object jsonb, as far as the place says nothing else; the columns of `$x.*` have the type that
-- all their values have. Where the server takes none of that, the statement is given all the same: running it says why.
-- Raises: PGD05 as bind.
create or replace function @extschema@.bind_late(query text, env jsonb, search_path text default null)
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    scanned constant jsonb := @extschema@.scan_query(query);
    path constant text := coalesce(search_path, '"$user", public');
    parts constant jsonb := scanned -> 'parts';
    verb constant text := coalesce(scanned ->> 'verb', '');
    places jsonb;
    n int;
    byvalue oid[];               -- of each place the type of its value
    native oid[];                -- the same, arrays as PostgreSQL's
    strings oid[];               -- the same, but texts open
    given oid[];
    types oid[];
    tried oid[];
    statement text;
    guess int := 1;
    one int;
begin
    perform @extschema@.check_query(scanned, query);
    select coalesce(jsonb_agg(p.part order by p.n), '[]') into places
      from jsonb_array_elements(parts) with ordinality as p (part, n)
     where jsonb_typeof(p.part) = 'object' and not p.part ? 'rows';
    n := jsonb_array_length(places);
    select coalesce(array_agg(coalesce(v.lit, @extschema@.value_type(v.value)) order by v.n), '{}'),
           coalesce(array_agg(coalesce(v.lit, @extschema@.value_type(v.value, true)) order by v.n), '{}')
      into byvalue, native
      from (select p.n, case when p.part ? 'lit' then coalesce(to_regtype(coalesce(p.part ->> 'cast', p.part ->> 'type'))::oid, 25) end as lit,
                   coalesce(env #> array(select jsonb_array_elements_text(@extschema@.env_path(p.part))), 'null') as value
              from jsonb_array_elements(places) with ordinality as p (part, n)) as v;
    strings := array(select case when u.type = 25 then 0 else u.type end from unnest(byvalue) with ordinality as u (type, n) order by u.n);
    native := array(select case when u.type = 25 then 0 else u.type end from unnest(native) with ordinality as u (type, n) order by u.n);
    if verb in ('select', 'insert', 'update', 'delete', 'merge', 'values', 'table') then
        loop
            statement := @extschema@.join_parts(parts, null, true, env, guess);
            exit when statement is null;
            given := array_fill(0::oid, array[n]);
            select t.types into types from @extschema@.settle_types(statement, places, given, path, verb) as t;
            if types is not null then
                -- A whole number was expected and something else is there: what PostgreSQL does with that is its own choice.
                for one in 1 .. n loop
                    if types[one] in (20, 21, 23) and byvalue[one] = 1700 then
                        given[one] := 1700;
                    end if;
                end loop;
                if 1700 = any (given) then
                    select t.types into types from @extschema@.settle_types(statement, places, given, path, verb) as t;
                end if;
            end if;
            if types is null then
                select t.types into types from @extschema@.settle_types(statement, places, strings, path, verb) as t;
            end if;
            if types is null and native <> strings then
                select t.types into types from @extschema@.settle_types(statement, places, native, path, verb) as t;
            end if;
            if types is null then
                given := array(select coalesce(nullif(u.type, 0), 25) from unnest(byvalue) with ordinality as u (type, n) order by u.n);
                select t.types into types from @extschema@.infer_types(statement, given, path) as t;
                if types is null then
                    given := array(select coalesce(nullif(u.type, 0), b.type)
                                     from unnest(native) with ordinality as u (type, place)
                                     join unnest(given) with ordinality as b (type, place) using (place) order by place);
                    select t.types into types from @extschema@.infer_types(statement, given, path) as t;
                end if;
                if types is not null then
                    -- As few as can be are what their values say: what a place says comes first.
                    for one in 1 .. n loop
                        tried := given;
                        tried[one] := 0;
                        select t.types into tried from @extschema@.infer_types(statement, tried, path) as t;
                        if tried is not null and (given[one] = 25 or places -> (one - 1) ? 'lit') then
                            given[one] := 0;
                            types := tried;
                        end if;
                    end loop;
                end if;
            end if;
            exit when types is not null or not exists (select from jsonb_array_elements(parts) as p where p ? 'rows');
            guess := guess + 1;
        end loop;
        if types is null then
            guess := 1;
        end if;
    end if;
    types := coalesce(types, byvalue);
    for one in 1 .. n loop
        if types[one] = 0 then
            types[one] := byvalue[one];
        end if;
    end loop;
    return @extschema@.join_parts(parts, types, false, env, guess);
end
$$;
