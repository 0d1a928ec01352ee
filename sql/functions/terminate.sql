-- Ends an instance where it stands, without any clean-up of its own: status cancelled, with an error of the type
-- `pgdurable.errors.Terminated`. What it was doing is stopped as far as it can be.
--
-- `security definer`: whoever may execute it needs no right to the tables. Locks: as cancel.
-- Returns: whether it had not ended. Where a worker holds it, it may still complete first.
-- Raises: PGD02 no such instance; PGD05 the reason is too long.
create or replace function @extschema@.terminate(id text, reason text default null) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.terminate_instance(@extschema@.need_instance(terminate.id), terminate.reason)
$$;
