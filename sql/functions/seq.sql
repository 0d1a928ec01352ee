-- A node that runs its steps one after the other; its result is that of the last.
-- Nodes are jsonb; where all are queries, texts: @extschema@.seq('select 1', 'select 2').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.seq(variadic steps jsonb[])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'seq', 'steps', steps))
$$;

create or replace function @extschema@.seq(variadic steps text[])
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'seq', 'steps', steps))
$$;
