-- Variables are taken at the start; what fails says why; what a step may not call.
select df.clearvars();
select df.setvar('table', 'generate_series(1, 3) as t (n)'), df.setvar('greeting', 'Hello');
create temp table vars_run as select df.start(
    'select count(*) as n, ''{greeting}, {sys_label} of {sys_instance_id}, {unknown}'' as said from {table}', 'mine') as id;
select df.setvar('greeting', 'Bye'), df.unsetvar('table');

do $$
declare
    s text := (select id from vars_run);
begin
    assert df.getvar('greeting') = 'Bye' and df.getvar('table') is null;
    assert df.await_instance(s) = 'completed', df.explain(s);
    assert df.result(s)::jsonb #> '{rows,0}'
        = jsonb_build_object('n', 3, 'said', format('Hello, mine of %s, {unknown}', s)), df.result(s);
end $$;
select df.clearvars();

create temp table failing as
select df.start('select 1' ~> 'select 1/0' ~> 'select 2', 'fails') as id, 'division by zero' as why
union all select df.start('select df.setvar(''a'', ''b'')', 'fails'), 'cannot be called inside a workflow'
union all select df.start('select df.await_instance(''00000000'')', 'fails'), 'cannot be called inside a workflow';
do $$
declare
    f record;
    node record;
begin
    for f in select * from failing loop
        assert df.await_instance(f.id) = 'failed', df.explain(f.id);
        assert df.result(f.id) is null;
        assert (select output from df.instance_info(f.id)) ~ f.why, (select output from df.instance_info(f.id));
        select * into node from df.nodes where instance_id = f.id and node_type = 'SQL' and status = 'failed';
        assert node.error ~ f.why and node.result #>> '{}' = node.error, node::text;
    end loop;
    assert (select count(*) from df.instance_nodes((select min(id) from failing where why ~ 'zero'))
             where inferred_status = 'skipped') = 1;
    assert (select array_agg(completed_at) from df.list_instances('failed', 10, 'fails')) = '{null,null,null}';
end $$;

-- A start that is rolled back has not been.
begin;
select df.start('select 1', 'undone');
rollback;
do $$
begin
    assert not exists (select from df.instances where label = 'undone');
end $$;
