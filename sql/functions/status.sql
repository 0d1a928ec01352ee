-- The status of an instance: pending running waiting paused completed failed cancelled timed_out.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.status(id text) returns text
language sql stable
as $$
    select i.status from @extschema@.instances i where i.id = @extschema@.need_instance(status.id)
$$;
