-- What one flush sends. Every array has one element per row; the core cuts them out of the rows it encoded.
--
-- `select unnest(a), unnest(b)` and not `select * from unnest(a, b)`: the second gathers each array's elements in a
-- store of its own before it gives the first row, some 50 us for ten columns, whatever the rows; the first hands them
-- on one by one. Both walk the arrays in step (PostgreSQL 10 and later).
--
-- A pipeline passes the fence by two plain statements, `fence_lock` and `fence_look`, which take the server 20 us less
-- than the function `fence` does; where there is nothing but history, `insert_history_fenced` looks itself, another 10.
-- The lock has to be held before the snapshot is taken that shows the worker's row; where a transaction keeps one
-- snapshot that is not so, and then, or where there is no such row, the function decides.
--
-- A batch that is sent again may find all of its rows there, and write none. Its commit has to wait for a synchronous
-- standby all the same: the first commit may have been cut off where it waited for it, and a failover would lose what is
-- acknowledged now. A commit waits only when its transaction has written to the log; `pg_logical_emit_message` writes a
-- few bytes there that nobody reads.

-- name: fence
select @extschema@.fence($1::bigint)

-- name: fence_lock
select now(), pg_advisory_xact_lock_shared(@extschema@.lock_class(0), $1::bigint::int)

-- name: fence_look
select coalesce(
    (select now()
       from @extschema@.fences f
      where f.worker = $1::bigint
        and current_setting('transaction_isolation') in ('read committed', 'read uncommitted')),
    @extschema@.fence($1::bigint))

-- name: insert_history_fenced
insert into @extschema@.history
    (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
select unnest($2::uuid[]), unnest($3::int[]), unnest($4::int[]), unnest($5::int[]), unnest($6::real[]),
       unnest($7::smallint[]), unnest($8::text[]), unnest($9::text[]), unnest($10::jsonb[]), unnest($11::jsonb[])
 where coalesce(
    (select now()
       from @extschema@.fences f
      where f.worker = $1::bigint
        and current_setting('transaction_isolation') in ('read committed', 'read uncommitted')),
    @extschema@.fence($1::bigint)) is not null

-- name: insert_history
insert into @extschema@.history
    (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
select unnest($1::uuid[]), unnest($2::int[]), unnest($3::int[]), unnest($4::int[]), unnest($5::real[]),
       unnest($6::smallint[]), unnest($7::text[]), unnest($8::text[]), unnest($9::jsonb[]), unnest($10::jsonb[])

-- name: insert_history_again
insert into @extschema@.history
    (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
select unnest($1::uuid[]), unnest($2::int[]), unnest($3::int[]), unnest($4::int[]), unnest($5::real[]),
       unnest($6::smallint[]), unnest($7::text[]), unnest($8::text[]), unnest($9::jsonb[]), unnest($10::jsonb[])
on conflict do nothing

-- name: read_history
select h.recorded_at
  from unnest($1::uuid[], $2::int[]) with ordinality as u (instance_id, event_id, n)
  left join @extschema@.history h on h.instance_id = u.instance_id and h.event_id = u.event_id
 where (select pg_logical_emit_message(true, 'pgdurable', '')) is not null
 order by u.n

-- name: copy_history
copy @extschema@.history
    (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
from stdin (format binary)

-- name: insert_instances
insert into @extschema@.instances (id, workflow, version, status, queue, owner, input)
select unnest($1::uuid[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
       unnest($6::bigint[]), unnest($7::jsonb[])

-- name: insert_instances_again
insert into @extschema@.instances (id, workflow, version, status, queue, owner, input)
select unnest($1::uuid[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
       unnest($6::bigint[]), unnest($7::jsonb[])
on conflict do nothing

-- name: read_instances
select i.created_at
  from unnest($1::uuid[]) with ordinality as u (id, n)
  left join @extschema@.instances i on i.id = u.id
 where (select pg_logical_emit_message(true, 'pgdurable', '')) is not null
 order by u.n

-- name: copy_instances
copy @extschema@.instances (id, workflow, version, status, queue, owner, input) from stdin (format binary)

-- name: release_instances
update @extschema@.instances i
   set status = u.status, output = u.output, error = u.error, wake_at = u.wake_at, owner = null, strikes = 0,
       started_at = coalesce(i.started_at, i.created_at),
       finished_at = case when u.status in ('completed', 'failed', 'cancelled', 'timed_out') then now() end
  from (select unnest($2::uuid[]) as id, unnest($3::text[]) as status, unnest($4::jsonb[]) as output,
               unnest($5::jsonb[]) as error, unnest($6::timestamptz[]) as wake_at) u
 where i.id = u.id and i.owner = $1::bigint

-- name: delete_events
delete from @extschema@.events where seq = any ($1::bigint[])

-- name: apply_writes
call @extschema@.apply_writes($1::bigint, $2::uuid[], $3::text[], $4::int[], $5::jsonb[])
