-- A node whose result is this JSON, in which "$refs" stand for values.
-- Example: @extschema@.value('{"id": "$order.id", "state": "paid"}').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.value(value jsonb, "into" text default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'value', 'value', value, 'into', "into"))
$$;
