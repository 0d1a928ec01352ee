-- Settlement: cash against shares, both or neither. Trades that cannot be settled fail as a whole and leave no trace.
create schema settlement_demo;
create table settlement_demo.cash (account int primary key, cents bigint not null check (cents >= 0));
create table settlement_demo.shares (account int primary key, pieces int not null check (pieces >= 0));
create table settlement_demo.trades (id int primary key, buyer int, seller int, pieces int, cents bigint, settled boolean default false);
insert into settlement_demo.cash select n, 60000 from generate_series(0, 49) n;
insert into settlement_demo.shares select n, 150 from generate_series(0, 49) n;
insert into settlement_demo.trades
select n, n % 50, (n * 7 + 3) % 50, 1 + n % 9, (1 + n % 9) * (900 + n % 200) from generate_series(1, 2000) n
 where n % 50 <> (n * 7 + 3) % 50;

select durable.define('settle', durable.seq(
    durable.sql('select * from settlement_demo.trades where id = $trade', 't'),
    durable.with(durable.atomic(
        'update settlement_demo.cash set cents = cents - $t.cents where account = $t.buyer',
        'update settlement_demo.cash set cents = cents + $t.cents where account = $t.seller',
        'update settlement_demo.shares set pieces = pieces - $t.pieces where account = $t.seller',
        'update settlement_demo.shares set pieces = pieces + $t.pieces where account = $t.buyer',
        'update settlement_demo.trades set settled = true where id = $t.id'), retry => '1')));

select count(durable.start('settle', jsonb_build_object('trade', id), id => 'trade/' || id)) from settlement_demo.trades;
call durable.work(max_time => '120 s');

do $$
declare
    ended int;
begin
    select count(*) into ended from durable.instances where workflow = 'settle' and status in ('completed', 'failed');
    assert ended = (select count(*) from settlement_demo.trades), 'every trade has come to its end';
    assert (select sum(cents) from settlement_demo.cash) = 50 * 60000, 'no cent is lost';
    assert (select sum(pieces) from settlement_demo.shares) = 50 * 150, 'no share is lost';
    assert (select count(*) from settlement_demo.trades where settled)
         = (select count(*) from durable.instances where workflow = 'settle' and status = 'completed'), 'settled is settled';
end $$;
