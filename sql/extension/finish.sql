-- PUBLIC, every role of the cluster that is, may do nothing here. Only where it still may: a grant within a script counts
-- as the extension's own, and a dump leaves out all that an object grants then.
do $$
declare
    found record;
begin
    for found in
        select case p.prokind when 'p' then 'procedure' else 'function' end as kind, p.oid::regprocedure::text as name
          from pg_proc p
         where p.pronamespace = '@extschema@'::regnamespace
           and exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)
        union all
        select 'table', c.oid::regclass::text
          from pg_class c
         where c.relnamespace = '@extschema@'::regnamespace and c.relkind in ('r', 'p', 'v')
           and exists (select from aclexplode(c.relacl) a where a.grantee = 0)
        union all
        select 'schema', n.nspname from pg_namespace n
         where n.nspname = '@extschema@' and exists (select from aclexplode(n.nspacl) a where a.grantee = 0)
    loop
        execute format('revoke all on %s %s from public', found.kind, found.name);
    end loop;
end
$$;

-- A dump holds the rows of every table; the version table's come with this script. Those of an unlogged one are of the moment.
do $$
declare
    found record;
begin
    for found in
        select c.oid::regclass as name
          from pg_class c
          join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
          join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
         where e.extname = 'pgdurable' and c.relkind in ('r', 'S') and c.relpersistence = 'p'
           and c.relname <> 'migrations'
         order by 1
    loop
        perform pg_extension_config_dump(found.name, '');
    end loop;
end
$$;
