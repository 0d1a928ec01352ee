-- A node that runs a step registered in Python, which a Python worker carries out; `args` is an array, or an object by name.
-- Example: @extschema@.python('send_mail', '["$customer.email", "Welcome"]', retry => '5').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.python(step text, args jsonb default '[]', "into" text default null, name text default null,
    retry jsonb default null, timeout interval default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'python', 'step', step, case when jsonb_typeof(args) = 'object' then 'kwargs' else 'args' end, args, 'into', "into", 'name', name, 'retry', retry, 'timeout', extract(epoch from timeout)::float8))
$$;
