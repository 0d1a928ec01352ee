-- A node that waits for a time, durably: a timestamptz, or "$name" of one.
-- Raises: PGD05 what is no such node; 22007 no time.
create or replace function @extschema@.wait_until(at timestamptz)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'wait_until', 'at', at))
$$;

create or replace function @extschema@.wait_until(at text)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'wait_until', 'at', case when at like '$%' then to_jsonb(at) else to_jsonb(at::timestamptz) end))
$$;
