-- Who calls: the role set by SET ROLE, else the one that logged in.
create or replace function df._caller() returns text
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.caller()
$$;
