-- A node that runs its branches side by side; the first to end wins, the others are cancelled.
-- Nodes are jsonb; where all are queries, texts: @extschema@.race('select 1', 'select 2').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.race(variadic branches jsonb[])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'race', 'branches', branches))
$$;

create or replace function @extschema@.race(variadic branches text[])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'race', 'branches', branches))
$$;
