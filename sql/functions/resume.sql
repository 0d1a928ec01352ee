-- Lets a paused instance go on: any worker that has its workflow may claim it. Its strikes are forgotten. One that has
-- been asked to pause, and still runs its last steps, is not paused then.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Returns: whether it was paused, or about to be.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.resume(id text) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.resume_instance(@extschema@.need_instance(resume.id))
$$;
