-- The nodes of a graph, in pre-order, after a look at all of them.
--
-- Returns: `n` from 0; `id`, by which the others name it; `up`, the n of the node above, and its `role` there: left, right,
-- condition, extra; `query`: the node's text, or its configuration, with the ids of the nodes it has beside left and right.
-- Raises: 22023 with the path of the first node that cannot be.
create or replace function df._flatten(graph jsonb)
returns table (
    n int, id text, up int, role text, depth int, node_type text, query text, result_name text, left_node text,
    right_node text, condition_node text, extra_nodes text[])
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    deepest constant int := 256;
    wrong text;
    r record;
begin
    for r in
        with recursive walk as (
            select graph as node, '{}'::int[] as place, null::text as role, 'root' as path, 0 as depth
            union all
            select c.node, w.place || c.place, c.role, w.path || '.' || c.step, w.depth + 1
              from walk w
             cross join lateral (
                select w.node -> 'left_node' as node, 1 as place, 'left' as role, 'left' as step
                union all select w.node -> 'right_node', 2, 'right', 'right'
                union all select w.node -> 'condition_node', 3, 'condition', 'condition_node'
                union all
                select e.value, 3 + e.n::int, 'extra', format('extra_nodes[%s]', e.n - 1)
                  from jsonb_array_elements(case jsonb_typeof(w.node -> 'extra_nodes') when 'array'
                                            then w.node -> 'extra_nodes' else '[]' end) with ordinality as e (value, n)
             ) c
             where w.depth <= deepest and jsonb_typeof(c.node) <> 'null'
        ), numbered as (
            select w.*, (row_number() over (order by w.place) - 1)::int as n from walk w
        ), named as (
            select m.*, lpad(to_hex(m.n), 8, '0') as id from numbered m
        )
        select m.n, m.id, u.n as up, m.role, m.depth, m.path, m.node,
               max(case when k.role = 'left' then k.id end) as left_id,
               max(case when k.role = 'right' then k.id end) as right_id,
               max(case when k.role = 'condition' then k.id end) as condition_id,
               array_agg(k.id order by k.n) filter (where k.role = 'extra') as extra_ids
          from named m
          left join named u on u.place = m.place[:cardinality(m.place) - 1] and m.place <> '{}'
          left join named k on k.place[:cardinality(k.place) - 1] = m.place and k.place <> '{}'
         group by m.n, m.id, u.n, m.role, m.depth, m.path, m.node
         order by m.n
    loop
        wrong := df._wrong(r.node, r.role, r.depth > deepest);
        if wrong is not null then
            raise exception using errcode = '22023', message = format('%s: %s', r.path, wrong),
                hint = 'Compose graphs with the functions and operators of df.';
        end if;
        n := r.n;
        id := r.id;
        up := r.up;
        role := r.role;
        depth := r.depth;
        node_type := r.node ->> 'node_type';
        query := r.node ->> 'query';
        if r.condition_id is not null or r.extra_ids is not null then
            query := (coalesce(query, '{}')::jsonb || jsonb_strip_nulls(jsonb_build_object(
                'condition_node', r.condition_id, 'extra_nodes', r.extra_ids)))::text;
        end if;
        result_name := r.node ->> 'result_name';
        left_node := r.left_id;
        right_node := r.right_id;
        condition_node := r.condition_id;
        extra_nodes := r.extra_ids;
        return next;
    end loop;
end
$$;
