-- A node that waits for a signal of this name. Its result is {"timed_out": false, "data": payload}; once `timeout` has passed,
-- {"timed_out": true, "data": null}. A signal that came before the wait is not lost.
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.wait_signal(signal text, timeout interval default null, "into" text default null, name text default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'wait_signal', 'signal', signal, 'timeout', extract(epoch from timeout)::float8, 'into', "into", 'name', name))
$$;
