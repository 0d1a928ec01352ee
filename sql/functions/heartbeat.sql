-- Says that the holder of an external step is alive: its lease begins anew. In a transaction of its own, since it counts
-- from the commit.
--
-- `security definer`: whoever may execute it needs no right to the tables.
-- Arguments: as complete_step; `details` are kept for the next attempt, null leaves what was said before.
-- Locks: the task's row, until the caller commits.
-- Returns: whether the step is still the caller's to do; false: it was cancelled, has ended, or another has it by now.
-- Raises: PGD02 no such instance; PGD05 several steps have the name.
create or replace function @extschema@.heartbeat(
    id text, step text, details jsonb default null, attempt int default null, seq int default null)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
    at timestamptz := clock_timestamp();
    places int[];
begin
    select coalesce(array_agg(t.seq), '{}') into places
      from (select o.* from @extschema@.tasks o where o.instance_id = target offset 0) t  -- by its key, whatever is known
     where t.kind = 'external' and (step is not null or heartbeat.seq is not null)
       and (step is null or t.name = step) and (heartbeat.seq is null or t.seq = heartbeat.seq)
       and @extschema@.task_wanted(target, t.seq);
    if cardinality(places) > 1 then
        raise exception using errcode = 'PGD05',
            message = format('several steps of instance %L are named %L', id, step),
            hint = 'Say which by seq => number; claim_external gives it.';
    end if;
    update @extschema@.tasks t
       set details = coalesce(heartbeat.details, t.details),
           lease_until = case when t.lease_until is not null then at + make_interval(secs => t.lease_s) end,
           run_at = case when t.lease_until is not null then at + make_interval(secs => t.lease_s)
                         else t.run_at end
     where t.instance_id = target and t.seq = places[1]
       and (heartbeat.attempt is null or t.attempt = heartbeat.attempt);
    return found;
end
$$;
