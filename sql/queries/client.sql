-- What clients read and send.

-- name: start
select @extschema@.start(%s, %s::jsonb, id => %s, version => %s, queue => %s, priority => %s,
                         delay => make_interval(secs => %s), labels => %s::jsonb, instance => %s,
                         dedup => %s, partition => %s)

-- name: start_with_timeout
select @extschema@.with_timeout(
    @extschema@.start(%s, %s::jsonb, id => %s, version => %s, queue => %s, priority => %s,
                             delay => make_interval(secs => %s), labels => %s::jsonb, instance => %s,
                             dedup => %s, partition => %s),
    make_interval(secs => %s))

-- name: start_keyed
select place, instance_id, created, at
  from @extschema@.start_keyed(%s, %s::text[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::float8[])

-- name: keys_there
select k.id, k.instance_id, i.workflow
  from @extschema@.instance_keys k join @extschema@.instances i on i.id = k.instance_id
 where k.id = any (%s::text[])

-- name: copy_instances
copy @extschema@.instances (id, workflow, version, status, queue, owner, input) from stdin (format binary)

-- name: start_many
select @extschema@.start_many(%s::uuid[], %s, %s, %s, %s::text[], %s, %s)

-- name: instance_there
-- Waits for a synchronous standby, as the lost commit should have: see flush.sql.
select exists (select from @extschema@.instances where id = encode(%s::bytea, 'hex')::uuid)
   and (select pg_logical_emit_message(true, 'pgdurable', '')) is not null

-- name: time
select (extract(epoch from clock_timestamp()) * 1000000::numeric)::bigint,
       @extschema@.setting('payload_aside')::int

-- name: notify_due
select pg_notify(@extschema@.channel(), 'due')

-- name: signal
select @extschema@.signal(%s, %s, %s::jsonb, key => %s)

-- name: signal_with_start
select @extschema@.signal_with_start(
    %s, %s::jsonb, id => %s, signal => %s, payload => %s::jsonb, key => %s, version => %s, queue => %s, priority => %s,
    delay => make_interval(secs => %s), labels => %s::jsonb, instance => %s, meant => %s)

-- name: find_key
select k.instance_id from @extschema@.instance_keys k where k.id = %s

-- name: request_update
select instance_id, update_key from @extschema@.request_update(%s, %s, %s::jsonb, %s)

-- name: update_replies
-- Answered, or of an instance that will not answer before somebody does something. One snapshot of both.
select a.instance_id, a.key, u.status, u.result::text, u.error::text, i.status
  from unnest(%s::uuid[], %s::uuid[]) as a (instance_id, key)
  left join @extschema@.updates u on u.instance_id = a.instance_id and u.key = a.key
  left join @extschema@.instances i on i.id = a.instance_id
 where u.status in ('completed', 'failed', 'rejected')
    or i.status is null or i.status in ('completed', 'failed', 'cancelled', 'timed_out', 'paused')

-- name: ask
select @extschema@.ask(%s, %s, %s::jsonb, %s)

-- name: answers
select key, instance_id, gone, answer, error from @extschema@.answers(%s::uuid[])

-- name: states
select key, value::text, place from @extschema@.states where instance_id = %s and (%s::text is null or key = %s::text) order by key

-- name: origin
select payload::text from @extschema@.history where instance_id = %s and event_id = 0 and kind = 'forked'

-- name: status_of
select status from @extschema@.instances where id = %s

-- name: stream_items
select i.status, s.position, s.kind, s.run, s.writer, s.n, s.attempt, s.item::text, s.written_at
  from @extschema@.instances i
  left join lateral (
    select o.* from @extschema@.stream_items o
     where o.instance_id = i.id and o.stream = %s::text and o.position >= %s::int
     order by o.position
     limit %s
  ) s on true
 where i.id = %s
 order by s.position

-- name: find_instance
select @extschema@.find_instance(%s)

-- name: retry
select @extschema@.retry(%s)

-- name: resume
select @extschema@.resume(%s)

-- name: cancel
select @extschema@.cancel(%s, %s)

-- name: terminate
select @extschema@.terminate(%s, %s)

-- name: pause
select @extschema@.pause(%s)

-- name: delete
select @extschema@.delete(%s)

-- name: fork
select @extschema@.fork(%s, %s::int, version => %s, input => %s::jsonb, new_id => %s, queue => %s, instance => %s)

-- name: bulk_bounds
select case when %s::float8 is null then '00000000-0000-0000-0000-000000000000'::uuid
            else @extschema@.id_at(now() - make_interval(secs => %s::float8)) end,
       @extschema@.id_at(now() - make_interval(secs => coalesce(%s::float8, 0.0::float8)))

-- name: bulk_step
select last, looked, done, idle, busy from @extschema@.bulk_step(%s, %s, %s, %s::jsonb, %s::jsonb, %s, %s)

-- name: unheard
-- Whether the worker that holds an instance has not heard yet that it is to pause it.
select exists (select from @extschema@.events e
                where e.instance_id = %s and e.kind = 'pause'::text and e.name is null)

-- name: outcomes
select id, status, case when output ? '$pgdurable:aside'::text then @extschema@.whole(id, output) else output end::text,
       error::text
  from @extschema@.instances
 where id = any (%s::uuid[]) and status in ('completed', 'failed', 'cancelled', 'timed_out', 'paused')

-- name: describe
select i.id, (select k.id from @extschema@.instance_keys k where k.instance_id = i.id limit 1) as key,
       i.workflow, i.version, i.status, i.queue, i.priority, i.owner, i.parent, i.takeovers, i.submitted_by,
       i.created_at, i.started_at, i.finished_at, i.wake_at, i.deadline,
       @extschema@.whole(i.id, i.input)::text, @extschema@.whole(i.id, i.output)::text, i.error::text, i.labels::text,
       (select pg_catalog.jsonb_agg(jsonb_build_object('name', r.name, 'attempt', r.attempt, 'started_at', r.started_at,
                                            'beat_at', r.beat_at, 'done', r.done, 'total', r.total)
                         order by r.started_at)
          from @extschema@.running_steps r where r.instance_id = i.id)::text as running_steps
  from @extschema@.instances i
 where i.id = %s

-- name: input_of
-- Of a fork, whose input it was given: what is encrypted is so for that one.
select h.payload ->> 'input_of'::text from @extschema@.history h
 where h.instance_id = %s and h.event_id = 0 and h.kind = 'forked'::text

-- name: history
select event_id, kind, seq, name, attempt,
       case when payload ? '$pgdurable:aside'::text then @extschema@.whole(instance_id, payload) else payload end::text, error::text, elapsed_ms, recorded_at
  from @extschema@.history
 where instance_id = %s and event_id > %s
 order by event_id
 limit %s

-- name: waiting_events
select seq, kind, name, @extschema@.whole(instance_id, payload)::text as payload, created_at
  from @extschema@.events
 where instance_id = %s
 order by seq
 limit 100

-- name: list_instances
select i.id, (select k.id from @extschema@.instance_keys k where k.instance_id = i.id limit 1) as key,
       i.workflow, i.version, i.status, i.queue, i.priority, i.owner, i.parent, i.takeovers, i.submitted_by,
       i.created_at, i.started_at, i.finished_at, i.wake_at, i.deadline
  from @extschema@.instances i
 where (%(status)s::text is null or i.status = %(status)s)
   and (%(workflow)s::text is null or i.workflow = %(workflow)s)
   and (%(before)s::uuid is null or i.id < %(before)s)
 order by i.id desc
 limit %(limit)s

-- name: unknown_workflows
select i.workflow, i.version, count(*)
  from (
    -- One index each, so that what has ended is not read.
    select o.workflow, o.version
      from @extschema@.instances o
     where o.owner is null and o.status in ('pending', 'waiting')
       and o.queue = 'default' and o.priority = 0 and o.partition = ''::text and o.wake_at <= now()
    union all
    select o.workflow, o.version
      from @extschema@.instances o
     where o.owner is null and o.status in ('pending', 'waiting')
       and (o.queue <> 'default' or o.priority <> 0 or o.partition <> ''::text)
       and o.wake_at <= now()
  ) i
 where not exists (
        select from @extschema@.workers w, jsonb_array_elements(w.workflows) as has (entry)
         where w.state = 'alive' and w.lease_until > now() and has.entry ->> 'name'::text = i.workflow
           and (i.version is null or has.entry ->> 'version'::text = i.version))
 group by i.workflow, i.version
 order by count(*) desc
 limit 20

-- name: start_debounced
select @extschema@.start_debounced(
    %s, %s::jsonb, %s, make_interval(secs => %s), make_interval(secs => %s::float8), version => %s, queue => %s,
    priority => %s, labels => %s::jsonb, instance => %s, partition => %s, for_instance => %s)

-- name: find_debounced
select @extschema@.find_debounced(%s, %s, %s, %s, %s)

-- name: start_batched
select @extschema@.start_batched(%s, %s, %s::uuid[], %s::text[], %s, make_interval(secs => %s), %s, %s, %s, %s)::text

-- name: set_queue
select @extschema@.set_queue(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)

-- name: set_queue_partition
select @extschema@.set_queue_partition(%s, %s, %s, %s, %s, %s, %s, %s)

-- name: queue_partitions
select p.queue, p.partition, p.weight, p.paused, p.concurrency, p.worker_concurrency, p.rate_count, p.rate_seconds
  from @extschema@.queue_partitions p
 order by p.queue, p.partition

-- name: queues
select coalesce(q.name, s.queue), coalesce(q.paused, false), q.concurrency, q.worker_concurrency, q.rate_count,
       q.rate_seconds, q.partition_concurrency, q.partition_worker_concurrency, q.partition_rate_count,
       q.partition_rate_seconds, coalesce(s.due, 0::bigint), coalesce(s.later, 0::bigint),
       coalesce(s.running, 0::bigint), s.oldest_due, coalesce(s.listeners, 0::bigint)
  from @extschema@.queues q
  full join (
    select v.queue, sum(v.due)::bigint as due, sum(v.later)::bigint as later, sum(v.running)::bigint as running,
           min(v.oldest_due) as oldest_due, min(v.listeners) as listeners
      from @extschema@.queue_stats v
     group by v.queue
 ) s on s.queue = q.name
 order by 1

-- name: put_aside
-- Large inputs of starts that go by COPY.
insert into @extschema@.payloads (instance_id, hash, data)
select u.id, u.hash, u.data::jsonb from unnest(%s::uuid[], %s::text[], %s::text[]) as u (id, hash, data)
on conflict do nothing

-- name: start_lined
select @extschema@.start_lined(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::text[])
