-- A node whose result is kept as this variable: $name. Any node can stand there; a text is a query.
-- (The functions that make nodes have a parameter `"into"` for the same. By name that needs the quotes, for INTO is reserved.)
-- Example: @extschema@.into('answer', @extschema@.wait_signal('go', timeout => '1 day')).
-- Raises: PGD05 what is no such node, or no name of a variable.
create or replace function @extschema@.into(name text, node anycompatible)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(@extschema@.normalize(to_jsonb(node)) || jsonb_build_object('into', name))
$$;
