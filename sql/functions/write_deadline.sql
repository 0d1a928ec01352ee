-- Notes an instance's deadline that its worker has worked out from the workflow's own timeout. See apply_writes.
create or replace function @extschema@.write_deadline(instance uuid, body jsonb) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    update @extschema@.instances i
       set deadline = to_timestamp((body ->> 'at')::float8)
     where i.id = instance and i.deadline is null and i.finished_at is null
$$;
