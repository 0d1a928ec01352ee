-- A node that is done from outside: whoever claims it (`claim_external`), or knows it, says how it ended (`complete_step`,
-- `fail_step`). `name` is the step's, and what who claims it sees.
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.external(
    name text, input jsonb default null, "into" text default null, queue text default null,
    retry jsonb default null, timeout interval default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'external', 'name', name, 'input', input, 'into', "into", 'queue', queue, 'retry', retry,
        'timeout', extract(epoch from timeout)::float8))
$$;
