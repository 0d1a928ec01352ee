-- A tick as text, in UTC: with `name` the id of the instance it starts, else a time that says the same everywhere. As workers
-- in Python write them: a fraction of a second stands there only where there is one.
create or replace function @extschema@.tick_key(tick timestamptz, name text default null) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(name || '@', '')
        || to_char(tick at time zone 'UTC', case when extract(microseconds from tick)::bigint % 1000000 = 0
                                                 then 'YYYY-MM-DD"T"HH24:MI:SS' else 'YYYY-MM-DD"T"HH24:MI:SS.US' end)
        || case when name is null then '+00:00' else 'Z' end
$$;
