-- Lets an instance stand still until it is resumed. Where a worker holds it, steps that run are finished and
-- checkpointed, and nothing more begins. Signals sent meanwhile are kept.
--
-- `security definer`: whoever may execute it needs no right to the tables. Locks: as cancel.
-- Returns: whether it was neither paused nor ended before. One that only had to run its last step may still complete.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.pause(id text) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.pause_instance(@extschema@.need_instance(pause.id))
$$;
