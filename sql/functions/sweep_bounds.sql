-- Where retention has something to look for: ids below `before` (null: nothing is ever removed). `usual` is the retention
-- where a workflow has none of its own; `overdue`: partitions that end before this time should have been dropped by now.
-- `mark` changes when a retention does.
create or replace function @extschema@.sweep_bounds(older_than interval default null)
returns table (before uuid, usual interval, overdue timestamptz, mark text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.id_at(now() - coalesce(older_than, k.shortest)), s.retention,
           now() - coalesce(older_than, s.retention + s.history_grace), md5(concat(s.retention, '/', k.all_of_them))
      from (select @extschema@.setting('retention')::interval as retention,
                   @extschema@.setting('history_grace')::interval as history_grace offset 0) s
     cross join lateral (
        select least(s.retention, min(@extschema@.keep_for(w.policies, s.retention))) as shortest,
               string_agg(concat_ws(' ', w.name, w.version, w.policies -> 'retention'), ',' order by w.name, w.version)
                   as all_of_them
          from @extschema@.workflows w
     ) k
$$;
