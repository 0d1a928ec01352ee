-- Enters a new worker incarnation.
-- Returns: its id, unique for ever in this namespace.
create or replace function @extschema@.join_worker(name text, workflows jsonb, lease interval)
returns bigint
language sql volatile
as $$
    insert into @extschema@.workers (name, workflows, lease_until)
    values (name, workflows, now() + lease)
    returning id
$$;
