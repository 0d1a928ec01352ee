-- A node that runs its branches side by side, and waits for all; its result is the array of theirs, in order.
-- `max_parallel`: at most so many at once; the branches are an array then.
-- Nodes are jsonb; where all are queries, texts: @extschema@.parallel('select 1', 'select 2').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.parallel(variadic branches jsonb[])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'parallel', 'branches', branches))
$$;

create or replace function @extschema@.parallel(variadic branches text[])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'parallel', 'branches', branches))
$$;

create or replace function @extschema@.parallel(branches jsonb[], max_parallel int)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'parallel', 'branches', branches, 'limit', max_parallel))
$$;
