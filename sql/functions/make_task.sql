-- Hands a step over to whoever runs its kind; see the table tasks. A task of the same number is replaced.
create or replace function @extschema@.make_task(
    target uuid, seq int, kind text, name text, queue text, submitted_by text, attempt int, timeout_s float8, request jsonb)
returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into @extschema@.tasks as t
        (instance_id, seq, kind, name, queue, submitted_by, attempt, timeout_s, request)
    values (target, seq, kind, name, coalesce(queue, 'default'), submitted_by, attempt, timeout_s, request)
    on conflict (instance_id, seq) do update
       set kind = excluded.kind, name = excluded.name, queue = excluded.queue, attempt = excluded.attempt,
           timeout_s = excluded.timeout_s, request = excluded.request, run_at = now(), owner = null, lease_until = null;
    select pg_notify(@extschema@.channel(), 'task')
$$;
