-- What the view `settings` shows: every setting, what holds in this session, and where that comes from.
--
-- `source`: `namespace` (kept_settings), `session` (set, or by the client as it connected), `role in database`, `role`,
-- `database`, `all roles`, a file with its line (for those who may read pg_file_settings), or `session or file`, `default`.
-- PostgreSQL does not say of a setting that no module defines where it came from: it is found by its value.
create or replace function @extschema@.settings_here()
returns table (name text, value text, source text, default_value text, meaning text, problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    k record;
    given text;
    files boolean := has_table_privilege('pg_catalog.pg_file_settings', 'select')
                     and has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute');
begin
    for k in select s.* from @extschema@.setting_kinds() s loop
        name := k.name;
        default_value := k.usual;
        meaning := k.meaning;
        given := nullif(current_setting('pgdurable.' || k.name, true), '');
        select s.value, 'namespace' into value, source from @extschema@.kept_settings s where s.name = k.name;
        if value is null and given is not null then
            value := given;
            -- The first that there is decides at the beginning of a session; another value was set since.
            select case when d.value = given then d.place end into source
              from (select substring(c.entry from '[^=]*=(.*)') as value,
                           case when r.setdatabase <> 0 and r.setrole <> 0 then 'role in database'
                                when r.setrole <> 0 then 'role'
                                when r.setdatabase <> 0 then 'database' else 'all roles' end as place,
                           case when r.setrole <> 0 then 0 else 2 end + case when r.setdatabase <> 0 then 0 else 1 end as rank
                      from pg_catalog.pg_db_role_setting r
                     cross join lateral unnest(r.setconfig) as c (entry)
                     where r.setdatabase in (0, (select d.oid from pg_catalog.pg_database d
                                                  where d.datname = current_database()))
                       and r.setrole in (0, (select o.oid from pg_catalog.pg_roles o where o.rolname = session_user))
                       and lower(split_part(c.entry, '=', 1)) = 'pgdurable.' || k.name
                     order by 3 limit 1) d;
            if not found and files then
                select format('%s:%s', f.sourcefile, f.sourceline) into source
                  from pg_catalog.pg_file_settings f
                 where lower(f.name) = 'pgdurable.' || k.name and f.setting = given
                 order by f.seqno desc limit 1;
            elsif not found then
                source := 'session or file';
            end if;
            source := coalesce(source, 'session');
        end if;
        value := coalesce(value, k.usual);
        source := coalesce(source, 'default');
        problem := 'expected ' || @extschema@.setting_problem(k.name, value);
        return next;
        value := null;
        source := null;
    end loop;
end
$$;
