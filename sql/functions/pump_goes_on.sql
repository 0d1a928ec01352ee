-- Whether a pump has another turn.
create or replace function @extschema@.pump_goes_on(pump jsonb) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select (pump -> 'going')::boolean
$$;
