-- Ends an instance: completed with the latest result, or as its state says it is ending. Of one that failed or timed out it is
-- kept where it stood, for retry. `saved`: it has a row in sql_runs, and may have tasks and events.
create or replace function @extschema@.run_over(worker bigint, target uuid, state jsonb, last jsonb, saved boolean) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    outcome text := coalesce(state #>> '{ending,status}', 'completed');
begin
    update @extschema@.instances i
       set status = outcome, owner = null, strikes = 0, wake_at = null, finished_at = now(),
           started_at = coalesce(i.started_at, i.created_at),
           output = case when outcome <> 'completed' then null
                         when pg_column_size(last) > 1000 then @extschema@.put_aside(target, last)
                         else coalesce(last, 'null') end,
           error = state #> '{ending,error}'
     where i.id = target and i.owner = worker;
    if outcome in ('failed', 'timed_out') then
        insert into @extschema@.sql_runs as r (instance_id, state)
        values (target, jsonb_build_object('ended', true, 'failed', state -> 'failed'))
        on conflict (instance_id) do update set state = excluded.state, open = '{}', saved_at = now();
    elsif saved then
        delete from @extschema@.sql_runs r where r.instance_id = target;
    end if;
    if saved or state ? 'tasks' then
        perform @extschema@.drop_tasks(target, '{}');
        delete from @extschema@.events e where e.instance_id = target;
    end if;
end
$$;
