-- Says that an attempt of an external step has failed, in the caller's transaction. What follows is up to the step's
-- retry policy: another attempt, which can be claimed then, or its error path.
--
-- `security definer`: whoever may execute it needs no right to the tables. `sent_by` of the event is the caller.
-- Arguments: `error` is the message, `type` a name by which the workflow can tell errors apart. `retryable` false: no
-- other attempt, whatever the policy says; `retry_in`: the wait before the next instead of the policy's.
-- Locks, returns, raises: as complete_step.
create or replace function @extschema@.fail_step(
    id text, step text, error text, type text default 'ExternalError', retryable boolean default true,
    retry_in interval default null, attempt int default null, seq int default null)
returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.end_external(id, step, jsonb_build_object('error', jsonb_strip_nulls(jsonb_build_object(
               'type', left(coalesce(type, 'ExternalError'), 512), 'message', left(coalesce(error, ''), 4096),
               'retryable', case when not retryable then false end,
               'retry_in', case when retry_in >= interval '0' then extract(epoch from retry_in) end))),
           attempt, seq)
$$;
