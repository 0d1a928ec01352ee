-- Every object of the schema that is no part of the extension becomes one. Not partitions of history, which come and go:
-- a dump has them as tables. Nor functions of others (runners of steps): they leave with the extension, if their
-- owner lets them.
do $$
declare
    found record;
begin
    if not exists (select from pg_depend d join pg_extension e on e.oid = d.refobjid
                    where d.classid = 'pg_namespace'::regclass and d.objid = '@extschema@'::regnamespace
                      and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and e.extname = 'pgdurable') then
        alter extension pgdurable add schema @extschema@;
    end if;
    for found in
        select i.type, i.identity, coalesce(p.proowner, n.nspowner) = n.nspowner as ours
          from pg_namespace n
          join pg_depend d on d.refclassid = 'pg_namespace'::regclass and d.refobjid = n.oid and d.deptype = 'n'
         cross join lateral pg_identify_object(d.classid, d.objid, 0) i
          left join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid
          left join pg_proc p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
         where n.nspname = '@extschema@' and not coalesce(c.relispartition, false)
           -- A view that names the schema has a rule that depends on it.
           and d.classid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass)
           and coalesce(obj_description(c.oid, 'pg_class'), '') <> 'pgdurable: partition of history'
           and not exists (select from pg_depend m
                            where m.classid = d.classid and m.objid = d.objid and m.deptype in ('e', 'x'))
         order by 1, 2
    loop
        if found.ours then
            execute format('alter extension pgdurable add %s %s', found.type, found.identity);
        else
            begin
                execute format('alter %s %s depends on extension pgdurable', found.type, found.identity);
            exception when insufficient_privilege then
                raise notice '% % is not ours: drop extension will ask for cascade', found.type, found.identity;
            end;
        end if;
    end loop;
end
$$;
