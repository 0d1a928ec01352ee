-- A node whose steps are one transaction with their checkpoints: all of them, or none.
-- Nodes are jsonb; where all are queries, texts: @extschema@.atomic('select 1', 'select 2').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.atomic(variadic steps jsonb[])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'atomic', 'steps', steps))
$$;

create or replace function @extschema@.atomic(variadic steps text[])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'atomic', 'steps', steps))
$$;
