-- Leaves the loop around it; the value, JSON or text, is the loop's result. $name in it is replaced.
create or replace function df.break(value text default null) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('node_type', 'BREAK', 'query', jsonb_build_object('break_value', value)::text)::text
$$;
