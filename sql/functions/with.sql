-- A node with policies: retry (as `retries` makes it, or a number of attempts), timeout of each attempt, the name it has in
-- history, whether the workflow goes on if it fails for good (its result is null then, and $error tells), a label, and the
-- variable that holds its result.
-- Example: @extschema@.with('select charge($order)', retry => '5', timeout => '10 s', name => 'charge').
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.with(
    node anycompatible, retry jsonb default null, timeout interval default null, name text default null,
    continue_on_error boolean default null, label text default null, "into" text default null)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(@extschema@.normalize(to_jsonb(node)) || jsonb_strip_nulls(jsonb_build_object(
        'retry', retry, 'timeout', extract(epoch from timeout)::float8, 'name', name, 'continue_on_error', continue_on_error, 'label', label,
        'into', "into")))
$$;
