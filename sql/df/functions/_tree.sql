-- A graph as an indented text; with the status of each node by its id, if that is given.
create or replace function df._tree(graph jsonb, states jsonb default null) returns text
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    r record;
    lines text[] := '{}';
    indents text[] := '{}';
    leads text[] := '{}';
    types text[] := '{}';
    inner_indent text;
    head text;
begin
    for r in
        -- In the order they are shown: of an IF the condition first, of a LOOP the body.
        with recursive f as materialized (select x.* from df._flatten(graph) x
        ), shown as (
            select f.*, '{}'::int[] as place, 0 as branch from f where f.up is null
            union all
            select f.*, s.place || (case f.role when 'condition' then case s.node_type when 'IF' then 0 else 3 end
                                                when 'left' then 1 when 'right' then 2 else 4 + f.n end),
                   case f.role when 'left' then 1 when 'right' then 2
                               else (2 + (select count(*) from f e
                                           where e.up = f.up and e.role = 'extra' and e.n <= f.n))::int end
              from shown s join f on f.up = s.n)
        select * from shown order by place
    loop
        types[r.n + 1] := r.node_type;
        if r.up is null then
            indents[1] := '';
            leads[1] := '';
        elsif types[r.up + 1] = 'THEN' then
            indents[r.n + 1] := indents[r.up + 1];
            leads[r.n + 1] := case r.role when 'left' then leads[r.up + 1] else df._sign('then') || ' ' end;
        else
            inner_indent := indents[r.up + 1] || '    ';
            head := case types[r.up + 1]
                when 'IF' then case r.role when 'condition' then '? condition:' when 'left' then df._sign('completed') || ' then:'
                                      else df._sign('failed') || ' else:' end
                when 'LOOP' then case r.role when 'left' then df._sign('body') || ' body:' else '? while:' end
                else format('%s branch %s:', df._sign('branch'), r.branch) end;
            lines := lines || (inner_indent || head);
            indents[r.n + 1] := inner_indent || '  ';
            leads[r.n + 1] := '';
        end if;
        if r.node_type <> 'THEN' then
            lines := lines || (indents[r.n + 1] || leads[r.n + 1]
                || df._words(r.node_type, r.query, r.result_name, coalesce(cardinality(r.extra_nodes), 0))
                || case when states is null then '' else '  ' || df._mark(states ->> r.id) end);
        end if;
    end loop;
    return array_to_string(lines, e'\n');
end
$$;
