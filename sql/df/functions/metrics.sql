-- How many instances of all users there are, by status, and how many rows of history.
create or replace function df.metrics()
returns table (
    total_instances bigint, running_instances bigint, completed_instances bigint, failed_instances bigint,
    total_executions bigint, total_events bigint)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select count(*), count(*) filter (where i.status in ('pending', 'running', 'waiting', 'paused')),
           count(*) filter (where i.status = 'completed'), count(*) filter (where i.status in ('failed', 'timed_out')),
           count(*) filter (where i.started_at is not null),
           coalesce(sum((select count(*) from @extschema@.history h where h.instance_id = i.id)), 0)::bigint
      from df.runs r
      join @extschema@.instances i on i.id = r.instance_id
$$;
