-- Lets an instance that is paused because it ended its workers (`Quarantined`), or for another reason, try again.
-- Returns: whether it was paused.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.retry(id text) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.resume(retry.id)
$$;
