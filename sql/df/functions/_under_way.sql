-- The ids of the nodes at which the threads of an instance stand.
create or replace function df._under_way(instance uuid) returns text[]
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(w.program #>> array['code', t.value ->> 'pc', 'name']), '{}')
      from @extschema@.instances i
      join @extschema@.sql_runs s on s.instance_id = i.id
      join @extschema@.workflows w on w.name = i.workflow and w.version = i.version
     cross join lateral jsonb_each(s.state -> 'threads') t
     where i.id = instance and i.status in ('pending', 'running', 'waiting', 'paused')
$$;
