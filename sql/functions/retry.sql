-- Lets an instance that failed or timed out go on from the step that failed. Checkpoints before it stay; that step and
-- what followed it is marked as undone in history when a worker takes the instance up, and done anew. (Where none of its
-- steps made it fail, its code runs on where it raised: so mend the code first.) A workflow deadline that has passed
-- is set anew, as long from now as it was from the start. A paused instance goes on as by resume.
--
-- `security definer`: whoever may execute it needs no right to the tables.
-- Returns: whether it had failed, timed out, or was paused.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.retry(id text) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.retry_instance(@extschema@.need_instance(retry.id))
$$;
