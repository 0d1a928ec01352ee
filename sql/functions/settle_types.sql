-- The types of a statement's places, as `infer_types` has them, and then: small integers become bigint where the statement
-- takes that (a value of 5 today may be one of 5,000,000,000 tomorrow), and what stands where anything may stand, as in
-- `select $x`, is open (0): its value decides.
--
-- Arguments: the statement with $1, $2, ...; what stands at each place; types that are given (0: not). Returns: as infer_types.
create or replace function @extschema@.settle_types(
    statement text, places jsonb, given oid[], search_path text, verb text, out types oid[], out state text, out problem text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    wider oid[];
    tried oid[];
    one int;
begin
    select t.types, t.state, t.problem into types, state, problem
      from @extschema@.infer_types(statement, given, settle_types.search_path) as t;
    if types is null or types = '{}' then
        return;
    end if;
    select array_agg(case when u.type in (21, 23) and given[u.n] = 0 then 20 else u.type end order by u.n) into wider
      from unnest(types) with ordinality as u (type, n);
    if wider <> types then
        select t.types into tried from @extschema@.infer_types(statement, wider, settle_types.search_path) as t;
        if tried is not null then
            types := tried;
        else
            for one in select g.n from generate_subscripts(types, 1) as g (n) where wider[g.n] <> types[g.n] loop
                tried := types;
                tried[one] := 20;
                select t.types into tried from @extschema@.infer_types(statement, tried, settle_types.search_path) as t;
                types := coalesce(tried, types);
            end loop;
        end if;
    end if;
    if verb in ('select', 'values', 'table') then
        for one in select g.n from generate_subscripts(types, 1) as g (n)
                    where types[g.n] = 25 and given[g.n] = 0 and places -> (g.n - 1) ? 'ref' loop
            tried := types;
            tried[one] := 16;
            select t.types into tried from @extschema@.infer_types(statement, tried, settle_types.search_path) as t;
            if tried is not null then
                tried[one] := 1007;
                select t.types into tried from @extschema@.infer_types(statement, tried, settle_types.search_path) as t;
            end if;
            if tried is not null then
                wider[one] := 0;
            else
                wider[one] := types[one];
            end if;
        end loop;
        select array_agg(case when wider[g.n] = 0 then 0 else types[g.n] end order by g.n) into types
          from generate_subscripts(types, 1) as g (n);
    end if;
end
$$;
