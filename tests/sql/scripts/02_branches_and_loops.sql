-- Conditions, loops, and the ways out of them.
create table rounds (id serial, what text);
create temp table runs (what text, id text, expected text);

insert into runs values
    ('if', df.start('select 2 > 1' ?> 'select ''yes'' as x' !> 'select ''no'' as x'), '{"rows": [{"x": "yes"}], "row_count": 1}'),
    ('if text', df.start(df.if('select ''f''', 'select 1 as x', 'select 2 as x')), '{"rows": [{"x": 2}], "row_count": 1}'),
    ('if rows', df.start('select 7 as n' |=> 'd' ~> df.if_rows('d', 'select $d.n as x', 'select 0 as x')),
     '{"rows": [{"x": 7}], "row_count": 1}'),
    ('if none', df.start('select 7 as n where false' |=> 'd' ~> df.if_rows('d', 'select $d.n as x', 'select 0 as x')),
     '{"rows": [{"x": 0}], "row_count": 1}'),
    ('reference', df.start('select true as done' |=> 'b' ~> ('$b.done' ?> 'select 1 as x' !> 'select 2 as x')),
     '{"rows": [{"x": 1}], "row_count": 1}'),
    ('while', df.start(df.loop('insert into rounds (what) values (''while'')',
                               'select count(*) < 4 from rounds where what = ''while''')
                       ~> 'select count(*) as x from rounds where what = ''while'''), '{"rows": [{"x": 4}], "row_count": 1}'),
    ('break', df.start(@> ('insert into rounds (what) values (''break'') returning id' |=> 'r'
                           ~> ('select count(*) = 3 from rounds where what = ''break'''
                               ?> df.break('{"last": $r.id}') !> 'select 1'))), null),
    ('nested', df.start(df.loop(
        'insert into rounds (what) values (''outer'')'
        ~> df.loop('insert into rounds (what) values (''inner'')',
                   'select count(*) % 2 <> 0 from rounds where what = ''inner''')
        ~> ('select count(*) = 3 from rounds where what = ''outer''' ?> df.break('done') !> 'select 1'))), '"done"'),
    ('race', df.start(df.sleep(30) | 'select ''fast'' as x'), '{"rows": [{"x": "fast"}], "row_count": 1}');

do $$
declare
    r record;
begin
    for r in select * from runs loop
        assert df.await_instance(r.id) = 'completed', r.what || e'\n' || df.explain(r.id);
        assert r.expected is null or df.result(r.id)::jsonb = r.expected::jsonb, r.what || ': ' || df.result(r.id);
    end loop;
    assert (select df.result(id)::jsonb ->> 'last' from runs where what = 'break')
         = (select max(id)::text from rounds where what = 'break');
    assert (select array_agg(n order by what) from (select what, count(*) n from rounds group by what) t) = '{3,6,3,4}';
end $$;

-- What did not run is seen to be skipped, from the nearest decision.
do $$
declare
    node record;
begin
    select * into node from df.instance_nodes((select id from runs where what = 'if')) where query like 'select ''no''%';
    assert node.status = 'pending' and node.inferred_status = 'skipped', node::text;
    assert node.inferred_status_from_ancestor_id = '00000000', node::text;
    assert df.explain((select id from runs where what = 'race')) like '%SLEEP 30s  ⊘ Skipped%';
    assert (select count(*) from df.nodes where instance_id = (select id from runs where what = 'nested')
             and status in ('pending', 'running') and query <> 'select 1') = 0;
end $$;

-- A break that no loop is around fails the instance.
create temp table stray as select df.start('select 1' & df.break('nowhere')) as id;
do $$
begin
    assert df.await_instance((select id from stray)) = 'failed';
    assert (select output from df.instance_info((select id from stray))) = 'df.break has no loop around it';
end $$;

-- One in a branch, or in a condition, leaves the loop all the same.
create temp table out as
select df.start(df.loop('select 1' ~> (df.break('a') & 'select 2'))) as id, '"a"' as result
union all select df.start(df.loop('select 1' ~> (df.sleep(60) | (df.sleep(0.05) ~> df.break('b'))))), '"b"'
union all select df.start('select 0' ~> df.loop('select 1', 'select 1' ~> df.break('c'))), '"c"';
do $$
declare
    o record;
begin
    for o in select * from out loop
        assert df.await_instance(o.id) = 'completed', df.explain(o.id);
        assert df.result(o.id) = o.result, df.result(o.id);
    end loop;
end $$;
