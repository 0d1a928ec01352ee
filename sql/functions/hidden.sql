-- Whether row-level security hides an instance from the caller: it is on, somebody else submitted the instance, and the
-- caller may not write instances directly, as workers, administrators and the owner of the tables may.
-- For `security definer` functions, which see every row themselves.
create or replace function @extschema@.hidden(submitted_by text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select submitted_by <> @extschema@.caller()
       and (select c.relrowsecurity from pg_class c where c.oid = '@extschema@.instances'::regclass)
       and not has_table_privilege(@extschema@.caller(), '@extschema@.instances', 'update')
$$;
