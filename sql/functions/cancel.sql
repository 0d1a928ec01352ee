-- Asks an instance to end: its workflow meets asyncio.CancelledError where it waits, and may clean up in durable steps.
-- One that has not begun ends at once. Asking again, or one that is being cancelled, changes nothing.
--
-- `security definer`: whoever may execute it needs no right to the tables. `sent_by` of the event is the caller.
-- Locks: the instance's row where no worker holds it. Where one does only an event is inserted, so a caller that stays
-- open holds nobody up.
-- Returns: whether it had not ended. It may still complete first.
-- Raises: PGD02 no such instance; PGD05 the reason is too long.
create or replace function @extschema@.cancel(id text, reason text default null) returns boolean
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.cancel_instance(@extschema@.need_instance(cancel.id), cancel.reason)
$$;
