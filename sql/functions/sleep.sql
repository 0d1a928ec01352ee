-- A node that waits so long, durably: an interval, a number of seconds, or "$name" of a number of seconds.
-- Raises: PGD05 what is no such node; 22007 no interval.
create or replace function @extschema@.sleep(duration interval)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'sleep', 'seconds', extract(epoch from duration)::float8))
$$;

create or replace function @extschema@.sleep(duration double precision)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'sleep', 'seconds', duration))
$$;

create or replace function @extschema@.sleep(duration text)
returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'sleep', 'seconds', case when duration like '$%' then to_jsonb(duration)
        else to_jsonb(extract(epoch from duration::interval)::float8) end))
$$;
