-- ETL: 50,000 rows are validated and loaded in batches. What cannot be loaded is put aside with the reason. The run is
-- interrupted in the middle, and goes on where it was: no batch is loaded twice.
create schema etl_demo;
create table etl_demo.staging (id int primary key, customer text, amount text, day text);
create table etl_demo.sales (id int primary key, customer text not null, amount numeric not null, day date not null);
create table etl_demo.refused (id int primary key, reason text);
create table etl_demo.loads (first int, last int, loaded int);
insert into etl_demo.staging
select n, case when n % 997 <> 0 then 'customer ' || n % 500 end,
       case when n % 501 = 0 then 'twelve' else (n % 10000 / 100.0)::text end, (date '2026-01-01' + n % 365)::text
  from generate_series(1, 50000) n;

select durable.define('etl', durable.seq(
    durable.sql('select g as first, g + 999 as last from generate_series(1, 50000, 1000) g', 'batches'),
    durable.for_each('$batches.*', durable.seq(
        durable.sql($q$insert into etl_demo.refused
                       select id, case when customer is null then 'no customer' else 'no amount' end
                         from etl_demo.staging
                        where id between $batch.first and $batch.last and (customer is null or amount !~ '^[0-9.]+$')$q$),
        durable.atomic(
            $q$insert into etl_demo.sales select id, customer, amount::numeric, day::date from etl_demo.staging s
                where id between $batch.first and $batch.last and not exists (select from etl_demo.refused r where r.id = s.id)$q$,
            $q$insert into etl_demo.loads select $batch.first, $batch.last, count(*) from etl_demo.sales
                where id between $batch.first and $batch.last$q$)), item => 'batch', max_parallel => 1),
    durable.sql('select count(*) as sales, sum(amount) as amount from etl_demo.sales')));

select durable.start('etl', id => 'etl/today');
-- Here the machine stops in the middle; and here it is another day.
call durable.work(max_time => '60 s', max_steps => 30);
call durable.work(max_time => '120 s');

do $$
begin
    assert durable.status('etl/today') = 'completed', durable.status('etl/today');
    assert (select count(*) from etl_demo.loads) = 50, 'each batch once';
    assert (select count(*) from etl_demo.sales) + (select count(*) from etl_demo.refused) = 50000, 'no row is lost';
    assert (select count(*) from etl_demo.refused) = 149, 'what is wrong is put aside';
    assert (durable.result('etl/today') #>> '{rows,0,sales}')::int = (select count(*) from etl_demo.sales), 'the result says so';
end $$;
