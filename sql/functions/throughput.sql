-- What happened in each of the last minutes: instances started, how those that ended did, steps and failed attempts.
--
-- `back`: how far. Only instances that were started within twice that time are looked at (their ids are time, so nothing
-- else is read): one that is older counts only where it is started.
create or replace function @extschema@.throughput(back interval default interval '15 minutes')
returns table (minute timestamptz, started bigint, completed bigint, failed bigint, cancelled bigint, timed_out bigint,
               steps bigint, failed_attempts bigint)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select m.minute, coalesce(s.started, 0), coalesce(e.completed, 0), coalesce(e.failed, 0), coalesce(e.cancelled, 0),
           coalesce(e.timed_out, 0), coalesce(h.steps, 0), coalesce(h.failed, 0)
      from generate_series(date_trunc('minute', now() - back), date_trunc('minute', now()), interval '1 minute') as m (minute)
      left join (
        select date_trunc('minute', i.created_at) as minute, count(*) as started
          from @extschema@.instances i
         where i.id >= @extschema@.id_at(now() - 2 * back)
         group by 1) s on s.minute = m.minute
      left join (
        select date_trunc('minute', i.finished_at) as minute,
               count(*) filter (where i.status = 'completed') as completed,
               count(*) filter (where i.status = 'failed') as failed,
               count(*) filter (where i.status = 'cancelled') as cancelled,
               count(*) filter (where i.status = 'timed_out') as timed_out
          from @extschema@.instances i
         where i.id >= @extschema@.id_at(now() - 2 * back) and i.finished_at >= date_trunc('minute', now() - back)
         group by 1) e on e.minute = m.minute
      left join (
        select date_trunc('minute', x.recorded_at) as minute, count(*) filter (where x.kind = 'step') as steps,
               count(*) filter (where x.error is not null) as failed
          from @extschema@.history x
         where x.instance_id >= @extschema@.id_at(now() - 2 * back) and x.kind in ('step', 'attempt')
           and x.recorded_at >= date_trunc('minute', now() - back)
         group by 1) h on h.minute = m.minute
     order by m.minute desc
$$;
