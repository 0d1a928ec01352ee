-- Telemetry: a trigger on the readings starts an action for a machine that runs hot, one at a time, in the reading's own
-- transaction: a reading that is rolled back starts nothing.
create schema telemetry_demo;
create table telemetry_demo.readings (machine int, at timestamptz, celsius numeric);
create table telemetry_demo.machines (id int primary key, fan boolean not null default false);
create table telemetry_demo.tickets (machine int, celsius numeric);
insert into telemetry_demo.machines select n from generate_series(1, 500) n;

select durable.define('cool_down', durable.seq(
    durable.sql('update telemetry_demo.machines set fan = true where id = $machine'),
    durable.sql('select max(celsius) as celsius from telemetry_demo.readings where machine = $machine', 'worst'),
    durable.if('select $worst.celsius > 110',
        durable.sql('insert into telemetry_demo.tickets values ($machine, $worst.celsius)')),
    durable.sleep('100 ms'),
    durable.sql('update telemetry_demo.machines set fan = false where id = $machine')));

create function telemetry_demo.watch() returns trigger language plpgsql as $$
begin
    perform durable.start('cool_down', jsonb_build_object('machine', new.machine), queue => 'alarms', dedup => 'machine ' || new.machine);
    return null;
end $$;
create trigger watch after insert on telemetry_demo.readings for each row when (new.celsius > 90) execute function telemetry_demo.watch();

insert into telemetry_demo.readings
select 1 + n % 500, now() + n * interval '1 second', 40 + (n % 500) * 0.15 + n % 7 from generate_series(1, 20000) n;
call durable.work(max_time => '5 s', queues => '{alarms}', wait => true);

do $$
declare
    hot int := (select count(distinct machine) from telemetry_demo.readings where celsius > 90);
begin
    assert hot between 50 and 450, 'some machines run hot';
    assert (select count(*) from durable.instances where workflow = 'cool_down') = hot, 'one action for each, not one a reading';
    assert (select count(*) from durable.instances where workflow = 'cool_down' and status = 'completed') = hot, 'done';
    assert (select count(*) from telemetry_demo.tickets)
         = (select count(*) from (select from telemetry_demo.readings group by machine having max(celsius) > 110) t), 'tickets';
    assert not exists (select from telemetry_demo.machines where fan), 'the fans are off again';
end $$;
