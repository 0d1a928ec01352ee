-- Sleeps of less than a second, signals before and after the wait, timeouts, cancellation.
create temp table waits (what text, id text);
insert into waits values
    ('sleep', df.start(df.sleep(0.2) ~> 'select 1 as x')),
    ('slept', df.start(df.sleep(0.1))),
    ('early', df.start(df.sleep(0.3) ~> df.wait_for_signal('go') |=> 's' ~> 'select $s.data as x')),
    ('text', df.start(df.wait_for_signal('go') |=> 's' ~> 'select $s::jsonb ->> ''data'' as x, $s.signal_name as name')),
    ('timeout', df.start(df.wait_for_signal('never', 1))),
    ('which', df.start((df.wait_for_signal('paid') | df.wait_for_signal('refused')) |=> 'p'
                       ~> ($$select $p.signal_name = 'paid'$$ ?> 'select 1 as x' !> 'select 2 as x'))),
    ('cancel', df.start(df.loop(df.sleep(60)), 'to-cancel'));
select df.signal(id, 'go', '{"n": 1}') from waits where what = 'early';
select df.signal(id, 'go', 'as text') from waits where what = 'text';
select df.signal(id, 'refused') from waits where what = 'which';

do $$
declare
    answers jsonb;
begin
    assert (select df.await_instance(id) from waits where what = 'sleep') = 'completed';
    assert (select updated_at - created_at from df.instances where id = (select id from waits where what = 'sleep'))
           >= '0.2 s', 'it waited for what it was told';
    assert (select bool_and(df.await_instance(id) = 'completed') from waits where what <> 'cancel');
    select jsonb_object_agg(what, coalesce(df.result(id)::jsonb #> '{rows,0}', df.result(id)::jsonb)) into answers
      from waits where what <> 'cancel';
    assert answers = '{"sleep": {"x": 1}, "slept": {"slept": true, "seconds": 0.1}, "early": {"x": {"n": 1}},
                       "text": {"x": "as text", "name": "go"}, "which": {"x": 2},
                       "timeout": {"data": null, "timed_out": true, "signal_name": "never"}}', answers::text;
end $$;

do $$
declare
    looped text := (select id from waits where what = 'cancel');
begin
    for i in 1 .. 200 loop
        exit when df.status(looped) = 'running';
        perform pg_sleep(0.05);
    end loop;
    assert df.cancel(looped, 'enough') = format('Instance %s cancelled: enough', looped);
    assert df.status(looped) = 'cancelled', 'at once';
    assert (select status from df.list_instances(null, 10, 'to-cancel')) = 'cancelled';
    assert df.await_instance(looped) = 'cancelled';
    assert df.signal(looped, 'go') = 'OK', 'nobody is there, and nobody is hurt';
end $$;

-- A loop takes the time of its rounds, and no second more for each.
create table paced (at timestamptz default clock_timestamp());
create temp table pacing as select df.start(df.loop('insert into paced default values' ~> df.sleep(0.02),
                                                    'select count(*) < 10 from paced')) as id;
do $$
begin
    assert df.await_instance((select id from pacing)) = 'completed';
    assert (select count(*) from paced) = 10;
    assert (select max(at) - min(at) from paced) between '0.18 s' and '8 s', (select max(at) - min(at) from paced)::text;
end $$;

-- Who waits for too long, or for nobody.
do $$
begin
    perform df.await_instance((select id from waits where what = 'cancel'), 0);
    assert false;
exception when invalid_parameter_value then null;
end $$;
do $$
begin
    perform df.await_instance('00000000');
    assert false;
exception when sqlstate 'PGD02' then null;
end $$;
