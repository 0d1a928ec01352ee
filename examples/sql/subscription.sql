-- Subscriptions: a charge each period until one is cancelled; what hangs on it, the deliveries, is cancelled with it.
create schema subscription_demo;
create table subscription_demo.subscriptions (id int primary key, state text not null default 'new', charges int not null default 0);
create table subscription_demo.deliveries (subscription int, state text not null default 'planned');
insert into subscription_demo.subscriptions select n from generate_series(1, 100) n;

select durable.define('deliveries', durable.seq(
    durable.sql('insert into subscription_demo.deliveries (subscription) values ($subscription)'),
    durable.loop(durable.seq(durable.wait_signal('parcel'), durable.sql('select 1')))));

-- A period is a tenth of a second here, for the demonstration; '1 month' is as good.
select durable.define('subscription', durable.seq(
    durable.sql('update subscription_demo.subscriptions set state = ''active'' where id = $id'),
    durable.start_child('deliveries', '{"subscription": "$id"}', wait => false, parent_close => 'cancel'),
    durable.loop(durable.seq(
        durable.sql('update subscription_demo.subscriptions set charges = charges + 1 where id = $id returning charges', 'charged'),
        durable.wait_signal('cancel', timeout => '100 ms', "into" => 'word'),
        durable.if('select not $word.timed_out or $charged.charges >= 5', durable.break('"over"')))),
    durable.sql('update subscription_demo.subscriptions set state = ''ended'' where id = $id')));

select count(durable.start('subscription', jsonb_build_object('id', id), id => 'subscription/' || id))
  from subscription_demo.subscriptions;
call durable.work(max_time => '60 s', max_steps => 400);
-- Half of them are cancelled by their customers; a signal counts whenever it comes, unless the instance has ended.
select durable.signal('subscription/' || id, 'cancel') from subscription_demo.subscriptions
 where id % 2 = 0 and durable.status('subscription/' || id) in ('pending', 'running', 'waiting');
call durable.work(max_time => '5 s', wait => true);

do $$
begin
    assert (select count(*) from subscription_demo.subscriptions where state = 'ended') = 100, 'all have ended';
    assert (select bool_and(charges between 1 and 5) from subscription_demo.subscriptions), 'charged once a period, five at most';
    assert (select count(*) from durable.instances where workflow = 'deliveries' and status = 'cancelled') = 100, 'deliveries too';
end $$;
