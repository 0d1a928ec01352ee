-- Writes down where an instance stands that has not ended; `parks`: and lets go of it until what it waits for has come.
-- Its tasks that nobody waits for any more are dropped.
create or replace function @extschema@.run_save(worker bigint, target uuid, state jsonb, parks boolean) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    open int[] := array(select (t.value #>> '{wait,seq}')::int from jsonb_each(state -> 'threads') t
                         where t.value #>> '{wait,k}' in ('task', 'outside') and t.value #> '{wait,got}' is null);
    due float8;
begin
    insert into @extschema@.sql_runs as r (instance_id, open, state) values (target, open, state)
    on conflict (instance_id) do update set open = excluded.open, state = excluded.state, saved_at = now();
    perform @extschema@.drop_tasks(target, open);
    if parks then
        select min(d.at) into due
          from jsonb_each(state -> 'threads') t
         cross join lateral (
            select (t.value #>> '{wait,due}')::float8 as at
            union all
            select (f.value ->> 'at')::float8 from jsonb_array_elements(coalesce(t.value -> 'fr', '[]')) f
             where f.value ->> 'k' = 'limit') d;
        update @extschema@.instances i
           set status = 'waiting', owner = null, strikes = 0, error = null,
               wake_at = least(to_timestamp(due), case when not state ? 'ending' then i.deadline end),
               started_at = coalesce(i.started_at, i.created_at)
         where i.id = target and i.owner = worker;
    end if;
end
$$;
