-- The steps and waits of an instance of a SQL workflow, each as its definition has it, with how far it has come.
--
-- `status`: `completed`, `failed`, `timed_out`, `retrying`, `running` (somebody has taken it), `queued` (nobody yet),
-- `waiting` (for a time, a signal, a child), `pending`, or `skipped`: nothing was recorded of it, and the instance has ended
-- or has gone past it. `times`: how often it ended (in a loop, several times); `attempts`: how often it was tried.
-- No row for an instance of a workflow that is not SQL, or of which no definition is left.
create or replace function @extschema@.step_states(instance uuid)
returns table (n int, path text, op text, name text, status text, attempts int, times int, first_at timestamptz,
               last_at timestamptz, elapsed_ms float8, until timestamptz, waits_for text, error jsonb)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive me as (
        select i.id, i.status, i.status in ('completed', 'failed', 'cancelled', 'timed_out') as ended, w.definition, w.program,
               r.state
          from @extschema@.instances i
          join @extschema@.workflows w on w.name = i.workflow and w.version = i.version and w.kind = 'sql'
          left join @extschema@.sql_runs r on r.instance_id = i.id
         where i.id = step_states.instance
    ), node as (
        select d.n, d.parent, d.path, d.op, d.name from me cross join lateral @extschema@.nodes(me.definition) d
    ), did as (
        select h.fingerprint as n, count(*) filter (where h.kind in ('step', 'attempt')) as attempts,
               count(*) filter (where h.kind <> 'attempt') as times, min(h.recorded_at) as first_at,
               max(h.recorded_at) as last_at, sum(h.elapsed_ms)::float8 as elapsed_ms,
               (array_agg(h.kind order by h.event_id desc))[1] as kind,
               (array_agg(h.error order by h.event_id desc))[1] as error
          from me join @extschema@.history h on h.instance_id = me.id
         where h.fingerprint is not null
         group by 1
    ), thread as (
        select (me.program #>> array['code', t.value ->> 'pc', 'n'])::int as n, t.value -> 'wait' as wait,
               k.owner is not null or k.taken_at is not null as taken
          from me
         cross join lateral jsonb_each(case when me.ended then null else me.state -> 'threads' end) t
          left join @extschema@.tasks k on k.instance_id = me.id and k.seq = (t.value #>> '{wait,seq}')::int
         where not t.value #> '{wait,got}' is not null
    ), ancestor as (
        select node.n, node.n as above, 0 as far from node
        union all
        select a.n, node.parent, a.far + 1 from ancestor a join node on node.n = a.above where node.parent is not null
    ), active as (
        select did.n from did union select thread.n from thread
    ), passed as (
        -- A node is past when a later one was come to, and both are parts of what goes in order, or of an `if`.
        select distinct l.n
          from (select mine.n, act.n as later,
                       (select m.above from ancestor m
                          join ancestor o on o.n = act.n and o.above = m.above
                         where m.n = mine.n order by m.far limit 1) as common
                  from node mine cross join active act
                 where not exists (select from active x where x.n = mine.n)) l
          join node c on c.n = l.common
         where l.later > l.n and c.op not in ('parallel', 'race', 'for_each')
            or c.op = 'if' and l.later <> l.n
               and not exists (select from ancestor w join node on node.n = w.above and node.parent = c.n
                                where w.n = l.later and node.path ~ '(^|\.)when$')
    )
    select node.n, node.path, node.op, node.name,
           case when thread.wait ->> 'k' = 'retry' then 'retrying'
                when thread.wait ->> 'k' in ('task', 'outside') then
                    case when thread.taken then 'running' else 'queued' end
                when thread.wait is not null and thread.wait ->> 'k' <> 'join' then 'waiting'
                when thread.n is not null and me.status = 'running' then 'running'
                when did.kind = 'attempt' and not me.ended then 'retrying'
                when did.error ->> 'type' in ('pgdurable.errors.StepTimeout', 'pgdurable.errors.HeartbeatTimeout') then 'timed_out'
                when did.error is not null then 'failed'
                when did.times > 0 then 'completed'
                when me.ended or passed.n is not null then 'skipped'
                else 'pending' end,
           coalesce(did.attempts, 0)::int, coalesce(did.times, 0)::int, did.first_at, did.last_at, did.elapsed_ms,
           to_timestamp((thread.wait ->> 'due')::float8),
           case thread.wait ->> 'k' when 'signal' then thread.wait ->> 'name' when 'child' then thread.wait ->> 'id' end,
           did.error
      from node cross join me
      left join did on did.n = node.n
      left join lateral (select t.n, t.wait, t.taken from thread t where t.n = node.n order by t.wait is null limit 1) thread
        on true
      left join passed on passed.n = node.n
     where node.op in ('sql', 'call', 'http', 'python', 'external', 'start_child', 'sleep', 'wait_until', 'wait_for_schedule',
                       'wait_signal')
     order by node.n
$$;
