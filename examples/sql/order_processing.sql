-- Orders: stock is reserved and the customer charged in one commit, or the order is rejected and says why.
create schema orders_demo;
create table orders_demo.stock (sku int primary key, pieces int not null check (pieces >= 0));
create table orders_demo.customers (id int primary key, cents bigint not null check (cents >= 0));
create table orders_demo.orders (id int primary key, customer int, sku int, pieces int, cents int,
                                 state text not null default 'new', reason text, shipped_at timestamptz);
insert into orders_demo.stock select n, 80 from generate_series(1, 20) n;
insert into orders_demo.customers select n, 20000 from generate_series(1, 200) n;
insert into orders_demo.orders
select n, 1 + n % 200, 1 + n % 20, 1 + n % 4, 500 + (n * 37) % 1500 from generate_series(1, 1000) n;

select durable.define('process_order', durable.seq(
    durable.sql('select id, customer, sku, pieces, cents from orders_demo.orders where id = $order', 'o'),
    durable.on_error(
        durable.seq(
            -- What is sold out stays sold out: no second attempt.
            durable.with(durable.atomic(
                'update orders_demo.stock set pieces = pieces - $o.pieces where sku = $o.sku',
                'update orders_demo.customers set cents = cents - $o.cents where id = $o.customer',
                'update orders_demo.orders set state = ''paid'' where id = $o.id'), retry => '1'),
            durable.with('update orders_demo.orders set state = ''shipped'', shipped_at = now() where id = $o.id',
                         name => 'ship', retry => '5')),
        'update orders_demo.orders set state = ''rejected'', reason = $error.message where id = $o.id')));

select count(durable.start('process_order', jsonb_build_object('order', id), id => 'order/' || id)) from orders_demo.orders;
call durable.work(max_time => '120 s');

do $$
begin
    assert (select count(*) from orders_demo.orders where state in ('shipped', 'rejected')) = 1000, 'every order has come to its end';
    assert (select count(*) from orders_demo.orders where state = 'rejected') between 1 and 999, 'some were rejected, not all';
    assert (select sum(pieces) from orders_demo.stock)
         = 1600 - (select sum(pieces) from orders_demo.orders where state = 'shipped'), 'no piece is sold twice';
    assert (select sum(cents) from orders_demo.customers)
         = 4000000 - (select sum(cents) from orders_demo.orders where state = 'shipped'), 'nobody is charged for nothing';
end $$;
