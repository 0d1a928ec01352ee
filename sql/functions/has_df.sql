-- Whether this database has a schema df of ours: made by the owner of these tables, for what it would do with his rights.
create or replace function @extschema@.has_df() returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (select from pg_proc p
                    where p.oid = to_regprocedure('df._forget(uuid[])')
                      and p.proowner = (select c.relowner from pg_class c where c.oid = '@extschema@.instances'::regclass))
$$;
