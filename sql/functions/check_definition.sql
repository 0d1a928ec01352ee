-- Everything that is wrong with a definition, each with the path to its node and what to do. None: it can be run.
create or replace function @extschema@.check_definition(definition jsonb)
returns table (path text, problem text, hint text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
begin
    for one in select * from @extschema@.nodes(definition) loop
        path := one.path;
        if jsonb_typeof(one.node) <> 'object' or one.op is null then
            problem := format('a node is an object with an "op", found %s', left(one.node::text, 80));
            hint := 'A text is a query, an array a sequence.';
            return next;
            continue;
        end if;
        return query select one.path, c.problem, c.hint from @extschema@.check_node(one.node) as c;
    end loop;
end
$$;
