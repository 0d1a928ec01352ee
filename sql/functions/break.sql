-- A node that ends the loop around it, whose result is this value ("$refs" in it stand for values).
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.break(value jsonb default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'break', 'value', value))
$$;
