-- A node that calls a function (or procedure) as a step: `args` is an array, or an object by parameter name, of values and "$refs".
-- Example: @extschema@.call('shop.reserve', '["$order.id", 3]', 'reserved').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.call(function text, args jsonb default '[]', "into" text default null, name text default null,
    retry jsonb default null, timeout interval default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'call', 'function', function, 'args', args, 'into', "into", 'name', name, 'retry', retry, 'timeout', extract(epoch from timeout)::float8))
$$;
