-- A node that starts an instance of a workflow (in SQL or Python), and waits for its result, or, with `wait` false, goes on with
-- its id. `parent_close`: what becomes of it when this one ends.
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.start_child(
    workflow text, input jsonb default '{}', wait boolean default true, id text default null, parent_close text default null,
    version text default null, queue text default null, "into" text default null, name text default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'start_child', 'workflow', workflow, 'input', input, 'wait', wait, 'id', id,
        'parent_close', parent_close, 'version', version, 'queue', queue, 'into', "into", 'name', name))
$$;
