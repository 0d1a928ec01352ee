-- An instance of the caller as an indented text; null: there is none.
create or replace function df._explain_instance(instance_id text) returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    run record;
    states jsonb;
begin
    select i.label, i.status, df._output(df._find(i.id)) as output, g.graph into run
      from df.instances i
      join df.runs x on x.id = i.id
      join df.graphs g on g.version = x.version
     where i.id = _explain_instance.instance_id;
    if not found then
        return null;
    end if;
    select jsonb_object_agg(n.id, n.inferred) into states from df._nodes(instance_id) n;
    return concat_ws(e'\n', format('Instance: %s%s', instance_id, coalesce(' (' || run.label || ')', '')),
        'Status:   ' || df._mark(run.status), 'Output:   ' || df._cut(run.output, 200), '', df._tree(run.graph, states));
end
$$;
