-- Everything that is wrong with a definition, each with the path to its node and what to do. None: it can be run.
--
-- The syntax of queries is the server's own judgement; whether their tables are there shows when they run. Volatile for that.
create or replace function @extschema@.check_definition(definition jsonb)
returns table (path text, problem text, hint text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
    scanned jsonb;
    tried record;
begin
    for one in
        with recursive node as (select * from @extschema@.nodes(definition))
        , above (n, up, ops, depth) as (
            select n.n, n.parent, '{}'::text[], 0 from node n
            union all
            select a.n, p.parent, a.ops || p.op, a.depth + 1 from above a join node p on p.n = a.up)
        select n.*, a.ops, a.depth
          from node n join above a on a.n = n.n and a.up is null order by n.n
    loop
        path := one.path;
        if jsonb_typeof(one.node) <> 'object' or one.op is null then
            problem := format('a node is an object with "op", found %s', left(one.node::text, 80));
            hint := 'A text is a query, an array a sequence.';
            return next;
            continue;
        end if;
        return query select one.path, c.problem, c.hint from @extschema@.check_node(one.node) as c;
        if one.op = 'break' and not 'loop' = any (one.ops) then
            problem := 'there is no loop around this break';
            hint := 'A break ends the loop it is in.';
            return next;
        end if;
        if one.op = 'rows' and one.path !~ 'when$|while$' then
            problem := 'rows is a condition';
            hint := 'It stands in when of an if, or in while of a loop.';
            return next;
        end if;
        if 'atomic' = any (one.ops) and one.op not in ('sql', 'call', 'if', 'rows', 'value', 'seq') then
            problem := format('%s cannot be part of an atomic', one.op);
            hint := 'All of an atomic is one transaction: only sql, call, if, value and seq are.';
            return next;
        end if;
        if one.depth = 256 then
            problem := 'it is nested more than 256 deep';
            hint := 'Make a workflow of its own of the inner part, and start it with start_child.';
            return next;
        end if;
        if one.op in ('sql', 'for_each') and jsonb_typeof(one.node -> 'query') = 'string' then
            scanned := @extschema@.scan_query(one.node ->> 'query');
            begin
                perform @extschema@.check_query(scanned, one.node ->> 'query');
                if scanned ->> 'verb' in ('select', 'insert', 'update', 'delete', 'merge', 'values', 'table') then
                    select t.state, t.problem into tried
                      from @extschema@.infer_types(@extschema@.join_parts(scanned -> 'parts', null, true),
                               array(select 0::oid from jsonb_array_elements(scanned -> 'parts') as p
                                      where jsonb_typeof(p) = 'object' and not p ? 'rows'), 'pg_catalog, pg_temp') as t;
                    if tried.state = '42601' then
                        problem := format('its query: %s', tried.problem);
                        hint := 'References stand where a value can stand ($x, $x.f), or a table in from ($x.*).';
                        return next;
                    end if;
                elsif scanned ->> 'verb' not in ('alter', 'analyze', 'analyse', 'begin', 'start', 'commit', 'end', 'rollback', 'abort',
                        'savepoint', 'release', 'call', 'checkpoint', 'cluster', 'comment', 'copy', 'create', 'do', 'drop', 'explain',
                        'grant', 'import', 'lock', 'notify', 'listen', 'unlisten', 'refresh', 'reindex', 'revoke', 'security', 'set',
                        'show', 'truncate', 'vacuum', 'reset', 'discard', 'reassign', 'prepare', 'execute', 'deallocate') then
                    problem := format('no statement begins with %L', scanned ->> 'verb');
                    hint := 'A text is a query; other kinds of node are objects with "op".';
                    return next;
                elsif scanned ->> 'verb' in ('begin', 'start', 'commit', 'end', 'rollback', 'abort', 'savepoint', 'release') then
                    problem := format('its query is %s, which no step can run', upper(scanned ->> 'verb'));
                    hint := 'A step is a transaction, or part of one; atomic makes several steps one.';
                    return next;
                end if;
            exception when sqlstate 'PGD05' then
                get stacked diagnostics problem = message_text, hint = pg_exception_hint;
                return next;
            end;
        end if;
    end loop;
end
$$;
