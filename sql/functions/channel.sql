-- The NOTIFY channel of this namespace. A notification is only ever a hint to look now; polling finds the same.
create or replace function @extschema@.channel() returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select 'pgdurable_@extschema@'
$$;
