-- Completes an external step from outside, in the caller's transaction: what the caller has written and the step's end
-- are one commit.
--
-- `security definer`: whoever may execute it needs no right to the tables. `sent_by` of the event is the caller.
-- Arguments: `step` is its name; `attempt` and `seq` as claim_external gave them: with them an end that comes too late
-- is refused, and of several steps of one name the right one ends. `output`: any JSON.
-- Locks: the task's row, until the caller commits: only others who end the same step wait for it.
-- Returns: true; false when it had ended before, and nothing was done (roll back what you did for it).
-- Raises: PGD02 no such instance; PGD03 it has ended; PGD05 several steps have the name; PGD11 no such step waits; PGD12
-- its lease ran out and another attempt is under way.
create or replace function @extschema@.complete_step(
    id text, step text, output jsonb default 'null', attempt int default null, seq int default null)
returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.end_external(id, step, jsonb_build_object('output', coalesce(output, 'null')), attempt, seq)
$$;
