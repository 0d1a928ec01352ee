-- A node that waits for the next time of a cron expression, in this time zone (default UTC).
-- Example: @extschema@.wait_for_schedule('0 9 * * 1-5', 'Europe/Berlin').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.wait_for_schedule(cron text, tz text default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'wait_for_schedule', 'cron', cron, 'tz', tz))
$$;
