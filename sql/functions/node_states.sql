-- What became of each node of an instance of a SQL workflow so far, by its number, as text.
--
-- A node that has a row in history: done, how often, how long it took last, or how it failed; one that runs or waits: since
-- when its thread stands there. Of the others `skipped` is inferred where the instance has ended; a node that only holds
-- others says nothing of itself.
create or replace function @extschema@.node_states(target uuid)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with i as (
        select x.id, x.status, w.definition, w.program -> 'code' as code
          from @extschema@.instances x join @extschema@.workflows w on w.name = x.workflow and w.version = x.version
         where x.id = target)
    , past as (
        select h.fingerprint as n, count(*) filter (where h.kind <> 'attempt' and h.error is null) as done,
               count(*) filter (where h.error is not null) as failed,
               (array_agg(h.elapsed_ms order by h.event_id desc))[1] as ms,
               (array_agg(h.error ->> 'message' order by h.event_id desc) filter (where h.error is not null))[1] as message,
               (array_agg(h.error is not null order by h.event_id desc))[1] as bad,
               (array_agg(h.kind order by h.event_id desc))[1] as kind
          from @extschema@.history h where h.instance_id = target and h.fingerprint is not null
         group by h.fingerprint)
    , now as (
        select (i.code -> (t.value ->> 'pc')::int ->> 'n')::int as n, count(*) as threads,
               max(t.value #>> '{wait,k}') as what, max((t.value ->> 'att')::int) as att
          from i join @extschema@.sql_runs r on r.instance_id = i.id cross join lateral jsonb_each(r.state -> 'threads') as t
         where i.status not in ('completed', 'failed', 'cancelled', 'timed_out')
         group by 1)
    select coalesce(jsonb_object_agg(n.n, s.said) filter (where s.said is not null), '{}')
      from i cross join lateral @extschema@.nodes(i.definition) as n
      left join past p on p.n = n.n
      left join now o on o.n = n.n
     cross join lateral (select nullif(concat_ws(', ',
           case when p.done = 1 then 'done' when p.done > 1 then format('done %s times', p.done) end,
           case when p.done > 0 and p.ms is not null then format('%s ms', round(p.ms::numeric, 1)) end,
           case when p.failed > 0 then format('%s: %s', case
               when p.bad and p.kind <> 'attempt' then 'FAILED' when p.failed = 1 then '1 attempt failed'
               else p.failed || ' attempts failed' end, left(p.message, 60)) end,
           case when o.n is not null then concat_ws(' ',
               case when o.what = 'join' then null when o.what is not null then 'WAITING' else 'NEXT' end,
               case when o.what <> 'join' then format('(%s)', o.what) end,
               case when o.att > 1 then 'attempt ' || o.att end, case when o.threads > 1 then o.threads || ' at once' end) end,
           case when p.n is null and o.n is null and n.op in ('sql', 'call', 'sleep', 'wait_until', 'wait_for_schedule', 'wait_signal',
                    'http', 'start_child', 'python', 'external')
                then case when i.status in ('completed', 'failed', 'cancelled', 'timed_out') then 'skipped' else 'pending' end end), '')) as s (said)
$$;
