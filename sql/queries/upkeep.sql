-- What workers ask to keep the tables in order, beside the hot path.

-- name: make_partitions
select @extschema@.make_partitions(), now(), @extschema@.setting('payload_aside')::int

-- name: partitions_until
select max(p.until), now(), @extschema@.setting('payload_aside')::int
  from @extschema@.history_partitions p where p.until < now() + interval '2 years'

-- name: partition_of
select p.name from @extschema@.history_partitions p
 where (p.lower is null or %s::uuid >= p.lower) and %s::uuid < p.upper and not p.detaching

-- name: make_partition_of
select @extschema@.make_partitions(%s::uuid)

-- name: pause_uncovered
update @extschema@.instances
   set status = 'paused', owner = null,
       error = jsonb_build_object('type', 'PgDurableError', 'message', %s::text, 'hint', %s::text)
 where id = %s and owner = %s

-- name: sweeps_here
select w.id = %s from @extschema@.workers w
 where w.state in ('alive', 'draining') and w.lease_until > now()
 order by w.id
 limit 1

-- name: sweep_bounds
select before, usual, overdue, mark, now() from @extschema@.sweep_bounds(%s::interval)

-- name: sweep
select last, looked, removed, again, gone, late from @extschema@.sweep(%s, %s, %s, %s::interval, %s)

-- name: sweep_history
select @extschema@.sweep_history(%s::uuid[], %s)

-- name: sweep_orphans
select last, looked, deleted from @extschema@.sweep_orphans(%s, %s, %s, %s)

-- name: sweep_runs
select @extschema@.sweep_runs(%s)

-- name: sweep_events
select @extschema@.sweep_events(%s)

-- name: overdue_partitions
select coalesce(p.lower, '00000000-0000-0000-0000-000000000000'), p.upper
  from @extschema@.history_partitions p
 where p.until < %s and not p.detaching
   and pg_relation_size(('@extschema@.' || quote_ident(p.name))::regclass) > 0
 order by 1

-- name: partitions_below
select coalesce(p.lower, '00000000-0000-0000-0000-000000000000'), p.upper
  from @extschema@.history_partitions p
 where (p.lower is null or p.lower < %s) and not p.detaching
   and pg_relation_size(('@extschema@.' || quote_ident(p.name))::regclass) > 0
 order by 1

-- name: spent_partitions
select name, detach, finalize from @extschema@.spent_partitions()

-- name: detach_spent
select @extschema@.detach_spent()

-- name: drop_detached
select @extschema@.drop_detached()

-- name: vacuum_state
select (select h.seconds from @extschema@.held_back h order by h.xids desc limit 1) as seconds,
       (select h.xids from @extschema@.held_back h order by h.xids desc limit 1) as xids,
       (select h.kind || ' '::text || h.name from @extschema@.held_back h order by h.xids desc limit 1) as holder,
       (select sum(d.dead)::bigint from @extschema@.dead_rows d) as dead,
       array(select d.queue from @extschema@.deaf_queues() as d (queue)) as deaf
