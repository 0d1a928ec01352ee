-- Monthly reports: regions are summed side by side, each a workflow of its own; the total waits for all, the publication for it.
create schema reports_demo;
create table reports_demo.sales (region text, day date, cents bigint);
create table reports_demo.region_reports (region text, month date, cents bigint, primary key (region, month));
create table reports_demo.reports (month date primary key, regions int, cents bigint, published_at timestamptz);
insert into reports_demo.sales
select 'region ' || n % 12, date '2026-01-01' + n % 90, n % 5000 from generate_series(1, 100000) n;

select durable.define('region_report', durable.with(
    $q$insert into reports_demo.region_reports
       select $region, $month, sum(cents) from reports_demo.sales
        where region = $region and day >= $month::date and day < $month::date + interval '1 month'
       returning cents$q$, name => 'sum', retry => durable.retries(3, initial => '100 ms')));

select durable.define('monthly_report', durable.seq(
    durable.sql('select distinct region from reports_demo.sales order by region', 'regions'),
    durable.for_each('$regions.*', durable.start_child('region_report', '{"region": "$r.region", "month": "$month"}'),
                     item => 'r', max_parallel => 4),
    durable.sql('insert into reports_demo.reports select month, count(*), sum(cents) from reports_demo.region_reports
                 where month = $month group by month returning regions, cents', 'total'),
    durable.if('select $total.regions = $regions.row_count',
        durable.sql('update reports_demo.reports set published_at = now() where month = $month returning month, cents'),
        durable.sql('select 1 / 0'))));

select durable.start('monthly_report', jsonb_build_object('month', m::date), id => 'report/' || m::date)
  from generate_series(date '2026-01-01', date '2026-03-01', interval '1 month') m;
call durable.work(max_time => '5 s', wait => true);

do $$
begin
    assert (select count(*) from reports_demo.reports where published_at is not null) = 3, 'three months are out';
    assert (select sum(cents) from reports_demo.reports) = (select sum(cents) from reports_demo.sales), 'every sale is in one of them';
    assert (select count(*) from durable.instances where workflow = 'region_report' and status = 'completed') = 36, 'a child each';
end $$;
