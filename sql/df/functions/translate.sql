-- A graph as a definition: what df.start has run.
--
-- Arguments: `vars`: what {name} stands for. Raises: 22023 for a graph that cannot be.
create or replace function df.translate(graph jsonb, vars jsonb default '{}') returns jsonb
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    r record;
    nodes jsonb[] := '{}';
    used bool[] := '{}';
    looped bool[] := '{}';
    parts jsonb[];
    types text[] := '{}';
    into_it jsonb;
begin
    for r in select f.* from df._flatten(graph) f loop
        nodes := nodes || to_jsonb(r);
        types := types || r.node_type;
        looped := looped || (r.node_type = 'LOOP' or coalesce(looped[r.up + 1], false));
        used := used || (r.up is null or r.result_name is not null or r.role = 'condition'
                         or (used[r.up + 1] and not (r.role = 'left' and types[r.up + 1] = 'THEN')));
    end loop;
    parts := array_fill(null::jsonb, array[cardinality(nodes)]);
    for i in reverse cardinality(nodes) .. 1 loop
        r := null;
        select n.* into r from jsonb_to_record(nodes[i]) as n (
            id text, node_type text, query text, result_name text, left_node text, right_node text, condition_node text,
            extra_nodes text[]);
        into_it := case when r.result_name is null then '{}' else jsonb_build_object('into', r.result_name) end;
        if r.node_type = 'BREAK' and not looped[i] then
            parts[i] := jsonb_build_object('op', 'sql', 'name', r.id,
                                           'query', 'select df._refuse(''df.break has no loop around it'')');
            continue;
        end if;
        parts[i] := case r.node_type
            when 'THEN' then jsonb_build_object('op', 'seq', 'steps', df._steps(df._part(parts, r.left_node))
                                                                    || df._steps(df._part(parts, r.right_node))) || into_it
            when 'IF' then jsonb_build_object('op', 'if', 'name', r.id, 'when', coalesce(df._part(parts, r.condition_node),
                    jsonb_build_object('op', 'rows', 'of', r.query::jsonb ->> 'result_name')),
                'then', df._part(parts, r.left_node), 'else', df._part(parts, r.right_node)) || into_it
            when 'LOOP' then jsonb_build_object('op', 'loop', 'name', r.id, 'body', df._part(parts, r.left_node)) || into_it
                || case when r.condition_node is null then '{}'
                   else jsonb_build_object('while', df._part(parts, r.condition_node)) end
            when 'RACE' then jsonb_build_object('op', 'race', 'name', r.id, 'branches', jsonb_build_array(
                df._part(parts, r.left_node), df._part(parts, r.right_node))) || into_it
            when 'JOIN' then jsonb_build_object('op', 'parallel', 'name', r.id, 'branches',
                    jsonb_build_array(df._part(parts, r.left_node), df._part(parts, r.right_node))
                    || coalesce((select jsonb_agg(df._part(parts, e.id) order by e.n)
                                   from unnest(r.extra_nodes) with ordinality as e (id, n)), '[]')) || into_it
            else df._leaf(r.id, r.node_type, r.query, r.result_name, used[i], vars) end;
    end loop;
    return parts[1];
end
$$;
