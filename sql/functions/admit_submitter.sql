-- Lets pumps run steps as a role: makes a function that is this role's, by which its statements are run with its rights and no
-- others. PostgreSQL refuses SET ROLE inside it, so a step cannot come by the rights of the pump.
--
-- Called by an administrator: whoever may make a function and give it to the role (a superuser, or an owner of this schema who
-- is a member of the role). Pumps of the role `pump` (null: of all who may execute it already) may use it.
-- Returns: the function's name. A second time nothing changes.
create or replace function @extschema@.admit_submitter(role name, pump name default null) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    number oid := (select r.oid from pg_roles r where r.rolname = admit_submitter.role);
    called text := 'run_as_' || number;
    one record;
begin
    if number is null then
        raise exception using errcode = 'PGD05', message = format('there is no role %L', role),
            hint = 'select rolname from pg_roles lists them.';
    end if;
    execute format(
        'create or replace function %1$s.%2$I(statement text, env jsonb, plain boolean, path text) returns jsonb '
        'language sql volatile security definer set search_path = pg_catalog, pg_temp '
        'as ''select %1$s.run_statement($1, $2, $3, $4)''', '@extschema@', called);
    if exists (select from pg_catalog.pg_depend d join pg_catalog.pg_extension e on e.oid = d.refobjid
                where d.classid = 'pg_namespace'::regclass and d.objid = '@extschema@'::regnamespace
                  and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and e.extname = 'pgdurable') then
        execute format('alter function %s.%I depends on extension pgdurable', '@extschema@', called);
    end if;
    execute format('grant usage on schema %s to %I', '@extschema@', role);
    -- What runs a statement, and what chooses its types where the values decide.
    for one in
        select p.oid::regprocedure as name from pg_proc p
         where p.pronamespace = '@extschema@'::regnamespace
           and p.proname in ('run_statement', 'bind_late', 'scan_query', 'check_query', 'query_refs', 'infer_types', 'settle_types',
                             'type_kind', 'value_type', 'ref_expression', 'lit_expression', 'rows_expression', 'join_parts',
                             'env_path', 'no_value')
    loop
        execute format('grant execute on function %s to %I', one.name, role);
    end loop;
    execute format('revoke all on function %s.%I from public', '@extschema@', called);
    if pump is not null then
        execute format('grant execute on function %s.%I to %I', '@extschema@', called, pump);
    end if;
    execute format('alter function %s.%I owner to %I', '@extschema@', called, role);
    return called;
end
$$;
