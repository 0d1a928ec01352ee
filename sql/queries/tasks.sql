-- What a worker asks for steps of workflows in SQL that it runs, and for its pumps. Types are to the letter: see worker.sql.

-- name: claim_tasks
select id, seq, kind, name, attempt, timeout_s, request, details, run_at, workflow, key
  from @extschema@.claim_tasks(%s, %s::text[], %s, %s, %s::text[])

-- name: finish_tasks
select @extschema@.finish_tasks(%s, %s::uuid[], %s::int[], %s::int[], %s::text[])

-- name: note_tasks
select id, seq from @extschema@.note_tasks(%s, %s::uuid[], %s::int[], %s::text[])

-- name: return_tasks
select @extschema@.return_tasks(%s)

-- name: free_tasks
select @extschema@.free_tasks()

-- name: drop_stale_tasks
select @extschema@.drop_stale_tasks()

-- name: work
call @extschema@.work(%s::interval, null, false, %s::text[])

-- name: stop_overdue
select @extschema@.stop_overdue()

-- name: drain_pumps
-- Pumps find their row draining at their next commit, and leave. They are known by the lock of their presence.
update @extschema@.workers
   set state = 'draining'
 where id = any (array(
    select w.id
      from pg_locks l
      join @extschema@.workers w on w.id::oid = l.objid and w.state = 'alive'
     where l.locktype = 'advisory' and l.classid = @extschema@.lock_class(1)::oid and l.granted
       and l.pid = any (%s::int[])
       for update of w skip locked))

-- name: end_pumps
select pg_terminate_backend(u.pid) from unnest(%s::int[]) as u (pid)

-- name: pump_due
select @extschema@.pump_due(%s::text[])

-- name: pump_session
-- A call lasts longer than an administrator's limit for a statement; what limits a step is its own timeout. And a client
-- that is gone is noticed.
select set_config('statement_timeout', '0', false),
       set_config('idle_session_timeout', '0', false),
       set_config('client_connection_check_interval', '2s', false),
       case when current_setting('server_version_num')::int >= 170000
            then set_config('transaction_timeout', '0', false) end
