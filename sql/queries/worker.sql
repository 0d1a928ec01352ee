-- What a worker and a client ask outside the flush.
--
-- Outside functions no search_path is pinned. So here, as in the other files of this folder, the types of each operator
-- and call are to the letter those of one in pg_catalog, which is looked into first: `->> 'name'::text`, never
-- `->> 'name'`. tests/security/test_search_path.py finds what is not.

-- name: join_worker
select @extschema@.join_worker(%s, %s::jsonb, make_interval(secs => %s), %s, %s::text[])

-- name: joined_at
select w.started_at from @extschema@.workers w where w.id = %s

-- name: retire_worker
select @extschema@.leave_worker(w.id) from @extschema@.workers w where w.id = %s and w.started_at = %s

-- name: compare_memory
-- Whether the database has all that a worker's memory follows from: after a failover that lost commits it has not.
-- `event_id` is the last one acknowledged, 0 for none. An instance on its way out of memory need not be owned any more.
-- An event under way to history is still there, or its history row is; a sequence that went back may have given its
-- number to another, so the time tells. Subqueries by index, one row each: `offset 0` leaves the planner no join.
select exists (select from @extschema@.workers w where w.id = %(worker)s and w.started_at = %(joined)s) as mine,
       exists (select from @extschema@.workers w
                where w.id = %(worker)s and w.state in ('alive', 'draining')) as living,
       (select count(*)
          from unnest(%(ids)s::uuid[], %(events)s::int[], %(owned)s::boolean[]) as u (id, event_id, owned)
         where (u.owned and not exists (
                    select from @extschema@.instances i
                     where i.id = u.id and i.owner = %(worker)s and i.status = 'running' offset 0))
            or (u.event_id > 0 and not exists (
                    select from @extschema@.history h
                     where h.instance_id = u.id and h.event_id >= u.event_id offset 0))) as behind,
       (select count(*)
          from unnest(%(seqs)s::bigint[], %(sent)s::timestamptz[], %(receivers)s::uuid[], %(places)s::int[])
               as u (seq, sent_at, id, event_id)
         where not exists (
                    select from @extschema@.events e where e.seq = u.seq and e.created_at = u.sent_at offset 0)
           and not exists (
                    select from @extschema@.history h
                     where h.instance_id = u.id and h.event_id = u.event_id
                      and h.kind not in ('step', 'attempt', 'timer', 'void') offset 0)) as events,
       (extract(epoch from clock_timestamp()) * 1000000::numeric)::bigint as at

-- name: beat
select other, other_beat, expired, absent from @extschema@.beat(%s, make_interval(secs => %s), %s::jsonb)

-- name: take_over
select @extschema@.take_over(%s, %s, %s)

-- name: mark_draining
-- Passes over the row while a serializable transaction step holds it: its fence would find it changed, and fail.
update @extschema@.workers
   set state = 'draining'
 where id = (select w.id from @extschema@.workers w where w.id = %s and w.state = 'alive' for update skip locked)
returning id

-- name: hint_others
select pg_notify(@extschema@.channel(), 'due'::text)

-- name: leave_worker
select @extschema@.leave_worker(%s)

-- name: register_workflows
insert into @extschema@.workflows (name, version, kind, policies)
select name, version, 'python', policies::jsonb
  from unnest(%s::text[], %s::text[], %s::text[]) as u (name, version, policies)
on conflict (name, version) do nothing

-- name: changed_policies
select count(*)
  from unnest(%s::text[], %s::text[], %s::text[]) as u (name, version, policies)
  join @extschema@.workflows w on w.name = u.name and w.version = u.version
 where not coalesce(w.policies, '{}') @> u.policies::jsonb

-- name: change_policies
update @extschema@.workflows w
   set policies = coalesce(w.policies, '{}') || u.policies::jsonb
  from unnest(%s::text[], %s::text[], %s::text[]) as u (name, version, policies)
 where w.name = u.name and w.version = u.version and not coalesce(w.policies, '{}') @> u.policies::jsonb

-- name: claim
select id, workflow, version, input, key, started_at, deadline, takeovers, parent, labels, woke_at,
       queue, strikes, trial
  from @extschema@.claim(%s, %s::text[], %s::text[], %s::boolean[], %s, %s::int, %s, %s::timestamptz[], %s,
                         %s::text[], true)

-- name: owned
select id from @extschema@.instances where owner = %s and status = 'running'

-- name: take_up
select i.id, i.workflow, i.version, @extschema@.whole(i.id, i.input)::text,
       (select k.id from @extschema@.instance_keys k where k.instance_id = i.id limit 1),
       coalesce(i.started_at, i.created_at), i.deadline, i.takeovers, i.parent, i.labels::text, null, i.queue,
       i.strikes, case when i.strikes > 1 then 60.0::float8 end
  from @extschema@.instances i
 where i.id = any (%s::uuid[]) and i.owner = %s and i.status = 'running'
 order by i.id

-- name: take_queries
select key, instance_id, name, input, held, workflow, version, started_with, id, started_at
  from @extschema@.take_queries(%s, %s::text[], %s::text[], %s::boolean[], %s)

-- name: answer_query
select @extschema@.answer_query(%s, %s::jsonb, %s::jsonb)

-- name: clear_strikes
update @extschema@.instances i
   set strikes = 0
  from @extschema@.fence(%s) as f (now)
 where i.id = any (%s::uuid[]) and i.owner = %s

-- name: load_history
-- Instance by instance, each by the key of its own partition: `= any` looks for every id in all of them. A nested loop
-- keeps the order within each, and needs no sort. Of one that has continued as new, from there on. Behind each
-- instance's history: whether it is asked to pause or to end, which a worker has to know before it begins anything;
-- what its attempts under way have last said; and its format, where that is a later one than the first.
select h.instance_id, h.event_id, h.kind, h.seq, h.name, h.attempt, h.fingerprint,
       case when h.payload ? '$pgdurable:aside'::text then @extschema@.whole(h.instance_id, h.payload)
            else h.payload end::text,
       h.error::text, h.recorded_at
  from unnest(%s::uuid[]) as u (id)
 cross join lateral (select i.first_event, i.format from @extschema@.instances i where i.id = u.id offset 0) own
 cross join lateral (
    (select o.instance_id, o.event_id, o.kind, o.seq, o.name, o.attempt, o.fingerprint, o.payload, o.error,
            o.recorded_at
       from @extschema@.history o
      where o.instance_id = u.id
        and o.event_id >= own.first_event
      order by o.event_id offset 0)
    union all
    (select e.instance_id, 0, 'asked'::text, null, null, null, null, null, null, null
       from @extschema@.events e
      where e.instance_id = u.id and e.kind in ('pause'::text, 'terminate'::text) limit 1)
    union all
    (select a.instance_id, 0, 'heartbeat'::text, a.seq, a.name, a.attempt, null, a.details, null, null
       from @extschema@.attempts a where a.instance_id = u.id and a.details is not null)
    union all
    (select u.id, 0, 'format'::text, own.format::int, null, null, null, null, null, null where own.format > 1)
 ) h

-- name: hear
select @extschema@.hear(%s, %s::uuid[])

-- name: heed
select id, status from @extschema@.heed(%s, %s::uuid[])

-- name: still_owned
select i.id from @extschema@.instances i where i.id = any (%s::uuid[]) and i.owner = %s

-- name: settle_requests
select @extschema@.settle_requests(200)

-- name: undo
select @extschema@.undo(%s, %s, %s::int[])

-- name: take_turns
select given, wait from @extschema@.take_turns(%s, %s, %s, %s)

-- name: note_attempts
select @extschema@.note_attempts(%s, %s::uuid[], %s::int[], %s::int[], %s::text[], %s::float8[], %s::float8[],
                                 %s::float8[], %s::float8[], %s::text[], %s::uuid[], %s::int[])

-- name: forget_attempts
select @extschema@.forget_attempts()

-- name: owned_events
-- From the events to their instances, never the other way: `offset 0` keeps this from becoming a join that reads
-- every instance the worker holds to find out that there is no event. And a range, where the planner would take
-- `seq > place` alone for a third of the table, and read and sort all of it.
select e.seq, e.instance_id, e.kind, e.name,
       case when e.payload ? '$pgdurable:aside'::text then @extschema@.whole(e.instance_id, e.payload) else e.payload end::text, e.created_at
  from @extschema@.events e
 cross join lateral (
    select from @extschema@.instances i where i.id = e.instance_id and i.owner = %s offset 0
 ) o
 where e.seq > %s and e.seq < %s + 1000000000000000
 order by e.seq
 limit 5000

-- name: events_of
-- Of instances that have just been claimed, whenever it was that the events came.
select e.seq, e.instance_id, e.kind, e.name,
       case when e.payload ? '$pgdurable:aside'::text then @extschema@.whole(e.instance_id, e.payload) else e.payload end::text, e.created_at
  from @extschema@.events e
 where e.instance_id = any (%s::uuid[])
 order by e.seq

-- name: last_event
-- And a mark that changes when the settings of a queue do.
select @extschema@.last_event(), (select concat(count(*), ' ', max(q.changed_at)) from @extschema@.queues q)

-- name: queues
select q.name from @extschema@.queues q

-- name: mark_emptied
-- What has ended comes to own nothing more, so once nothing is left it stays so.
update @extschema@.workers w
   set emptied = true
 where w.state in ('dead', 'stopped') and not w.emptied
   and not exists (select from @extschema@.instances i where i.owner in (w.id, -w.id))

-- name: drop_stale_events
-- From the events to their instances, as above.
delete from @extschema@.events e
 where e.seq = any (array(
    select s.seq
      from @extschema@.events s
     cross join lateral (
        select from @extschema@.instances i
         where i.id = s.instance_id and i.status in ('completed', 'failed', 'cancelled', 'timed_out') offset 0
     ) o
     limit 5000))

-- name: forget_keys
select @extschema@.sweep_signal_keys(10000), @extschema@.sweep_batch_inputs(10000)

-- name: next_due
-- In how many seconds the next instance is due, and the next schedule has to be looked at; null: none.
select @extschema@.next_due(%s::text[], %s::timestamptz[], %s::text[]),
       (select extract(epoch from s.next_at - now())::float8
          from @extschema@.schedules s
         where s.next_at is not null and s.workflow = any (%s::text[])
         order by s.next_at
         limit 1)

-- name: fence_transaction
select @extschema@.fence(%s)

-- name: checkpoint_transaction
with g (id, event_id, seq, fingerprint, elapsed_ms, attempt, name, payload) as (
    select %s::uuid, %s::int, %s::int, %s::int, %s::real, %s::smallint, %s::text, %s::jsonb
)
insert into @extschema@.history
    (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, recorded_at)
select g.id, g.event_id, g.seq, g.fingerprint, g.elapsed_ms, g.attempt, 'step', g.name,
       case when pg_catalog.pg_column_size(g.payload) > 1000 then @extschema@.put_aside(g.id, g.payload) else g.payload end,
       clock_timestamp()
  from g, @extschema@.fence(%s)
returning recorded_at

-- name: settle_transaction
insert into @extschema@.history (instance_id, event_id, seq, attempt, kind, name)
select %s, %s, %s, %s, 'void', %s
  from @extschema@.fence(%s)
on conflict do nothing
returning event_id

-- name: read_checkpoint
-- Waits for a synchronous standby, as the lost commit should have: see flush.sql.
select recorded_at from @extschema@.history
 where instance_id = %s and event_id = %s and kind = 'step'
   and (select pg_logical_emit_message(true, 'pgdurable', '')) is not null
