-- What one flush sends. Every array has one element per row; the core cuts them out of the rows it encoded.

-- name: fence
select @extschema@.fence($1::bigint)

-- name: insert_history
insert into @extschema@.history
    (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
select * from unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::real[], $6::smallint[],
                     $7::text[], $8::text[], $9::jsonb[], $10::jsonb[])

-- name: insert_history_again
insert into @extschema@.history
    (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
select * from unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::real[], $6::smallint[],
                     $7::text[], $8::text[], $9::jsonb[], $10::jsonb[])
on conflict do nothing

-- name: read_history
select h.recorded_at
  from unnest($1::uuid[], $2::int[]) with ordinality as u (instance_id, event_id, n)
  left join @extschema@.history h on h.instance_id = u.instance_id and h.event_id = u.event_id
 order by u.n

-- name: copy_history
copy @extschema@.history
    (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
from stdin (format binary)

-- name: insert_instances
insert into @extschema@.instances (id, workflow, version, status, queue, owner, input)
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::jsonb[])

-- name: insert_instances_again
insert into @extschema@.instances (id, workflow, version, status, queue, owner, input)
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::jsonb[])
on conflict do nothing

-- name: read_instances
select i.created_at
  from unnest($1::uuid[]) with ordinality as u (id, n)
  left join @extschema@.instances i on i.id = u.id
 order by u.n

-- name: copy_instances
copy @extschema@.instances (id, workflow, version, status, queue, owner, input) from stdin (format binary)

-- name: release_instances
update @extschema@.instances i
   set status = u.status, output = u.output, error = u.error, wake_at = u.wake_at, owner = null,
       started_at = coalesce(i.started_at, i.created_at),
       finished_at = case when u.status in ('completed', 'failed', 'cancelled', 'timed_out') then now() end
  from unnest($2::uuid[], $3::text[], $4::jsonb[], $5::jsonb[], $6::timestamptz[])
       as u (id, status, output, error, wake_at)
 where i.id = u.id and i.owner = $1::bigint

-- name: delete_events
delete from @extschema@.events where seq = any ($1::bigint[])
