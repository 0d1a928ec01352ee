-- A node that runs one statement. Results stand in it as $name, $name.field, $name.*, with ? behind where null will do; they
-- are bound as parameters, never put into its text. Its own rows are kept under the name `"into"`.
-- Example: @extschema@.sql('select id, total from orders where id = $order', 'o', retry => '{"max_attempts": 3}').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.sql(query text, "into" text default null, name text default null,
    retry jsonb default null, timeout interval default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'sql', 'query', query, 'into', "into", 'name', name, 'retry', retry, 'timeout', extract(epoch from timeout)::float8))
$$;
