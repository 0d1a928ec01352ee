-- Whether the caller may know of what this role submitted: its own, and all for who may write instances.
create or replace function df._sees(submitted_by text) returns boolean
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select submitted_by = @extschema@.caller() or has_table_privilege(@extschema@.caller(), '@extschema@.instances', 'update')
$$;
