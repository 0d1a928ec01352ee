-- Who calls, where rights are concerned: the role set by SET ROLE, else the one that logged in. PostgreSQL lets nobody
-- set a role it is not a member of. In a `security definer` function current_user would be the function's owner.
create or replace function @extschema@.caller() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case current_setting('role') when 'none' then session_user::text else current_setting('role') end
$$;
