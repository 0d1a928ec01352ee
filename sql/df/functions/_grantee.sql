-- A role as grant names it.
create or replace function df._grantee(role text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case when lower(role) = 'public' then 'public' else quote_ident(role) end
$$;
