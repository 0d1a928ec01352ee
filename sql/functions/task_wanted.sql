-- Whether somebody still waits for a task: its instance has not ended, and has not given the step up.
-- `begins`: nor is it paused, so that the task may begin.
create or replace function @extschema@.task_wanted(instance uuid, seq int, begins boolean default false) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from @extschema@.instances i
          left join @extschema@.sql_runs r on r.instance_id = i.id
         where i.id = instance and i.status not in ('completed', 'failed', 'cancelled', 'timed_out')
           and not (begins and i.status = 'paused')
           and (r.open is null or task_wanted.seq = any (r.open)))
$$;
