-- Steps, names, sequences, branches at once: each way of writing it does the same.
create table steps_log (id serial, step text, way text);
create temp table started (id text, way text);

insert into started select df.start(
    'insert into steps_log (step, way) values (''one'', ''op'')'
    ~> 'insert into steps_log (step, way) values (''two'', ''op'')'
    ~> 'select array_agg(step order by id) as steps from steps_log where way = ''op''', 'seq-op'), 'op';
insert into started select df.start(df.seq(
    df.seq('insert into steps_log (step, way) values (''one'', ''fn'')',
           'insert into steps_log (step, way) values (''two'', ''fn'')'),
    df.sql('select array_agg(step order by id) as steps from steps_log where way = ''fn''')), 'seq-fn'), 'fn';

do $$
declare
    s record;
begin
    for s in select * from started loop
        assert df.await_instance(s.id) = 'completed', df.explain(s.id);
        assert df.result(s.id)::jsonb = '{"rows": [{"steps": ["one", "two"]}], "row_count": 1}', df.result(s.id);
    end loop;
end $$;

-- Results by name.
do $$
begin
    create temp table named as select df.start(
        $q$select 42 as id, 'O''Hara; drop table steps_log' as name, null::int as nothing$q$ |=> 'doc'
        ~> $q$select $doc as first, $doc.name as name, coalesce($doc.nothing?, -1) as nothing, 'is $doc.id' as said$q$) as id;
end $$;
do $$
declare
    s text := (select id from named);
begin
    assert df.await_instance(s) = 'completed', df.explain(s);
    assert df.result(s)::jsonb #> '{rows,0}'
        = '{"first": 42, "name": "O''Hara; drop table steps_log", "nothing": -1, "said": "is 42"}', df.result(s);
end $$;

-- A set of rows as a table; one without rows fails whoever needs a value of it, and nobody else.
create temp table sets as
select df.start('select g, g * g as square from generate_series(1, 4) g' |=> 'b'
                ~> 'select sum(square)::int as n from $b.* where g > 1', 'rows') as id, '{"n": 29}'::jsonb as row
union all
select df.start('select 1 as x where false' |=> 'e' ~> 'select count(*) as n from $e.*', 'none'), '{"n": 0}'
union all
select df.start('select 1 as x where false' |=> 'e' ~> 'select $e', 'strict'), null;
do $$
declare
    s record;
begin
    for s in select * from sets loop
        assert df.await_instance(s.id) = case when s.row is null then 'failed' else 'completed' end, df.explain(s.id);
        assert df.result(s.id)::jsonb #> '{rows,0}' is not distinct from s.row, df.result(s.id);
    end loop;
end $$;

-- Branches at once, and what they named.
create temp table joined as select df.start(
    (('select 1 as a' |=> 'l') & ('select 2 as b' |=> 'r') & 'select 3 as c') ~> 'select $l + $r as sum') as id,
    df.start(df.join3('select 1 as a', 'select 2 as b', 'select 3 as c')) as three;
do $$
declare
    j joined := (select j from joined j);
begin
    assert df.await_instance(j.id) = 'completed', df.explain(j.id);
    assert df.result(j.id)::jsonb #>> '{rows,0,sum}' = '3', df.result(j.id);
    assert df.await_instance(j.three) = 'completed', df.explain(j.three);
    assert jsonb_path_query_array(df.result(j.three)::jsonb, '$[*].rows[0].*') = '[1, 2, 3]', df.result(j.three);
end $$;
