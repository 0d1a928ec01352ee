-- The statement by which steps are run as another role, which admit_submitter has made; null: there is none, or it is not ours
-- to execute.
create or replace function @extschema@.runner_of(submitter text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select format('select %s.%I($1, $2, $3, $4)', '@extschema@', p.proname)
      from pg_roles r
      join pg_proc p on p.proname = 'run_as_' || r.oid and p.proowner = r.oid and p.prosecdef
                    and p.pronamespace = '@extschema@'::regnamespace
     where r.rolname = submitter and has_function_privilege(p.oid, 'execute')
$$;
