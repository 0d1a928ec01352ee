-- Runs statements that instances have handed out as tasks, as branches that run side by side do: one after the other, inside
-- the caller's transaction, until none is due, or `until`.
--
-- Who has run one deletes it and tells its instance by an event of kind `task`, in the same commit as what it did. One that
-- its instance does not wait for any more is dropped. `since`: where to begin looking by `run_at`.
-- Locks: the fence of `worker`; each task it runs, skipping those that others run.
-- Returns: `ran`: how many; `outcome`: null: no more is due; `more`; `conflict`; `stop`: see run_instance.
create or replace function @extschema@.run_tasks(
    worker bigint, until timestamptz, since timestamptz, listens text[], usual jsonb, out ran int, out outcome text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    task record;
    did record;
    wanted boolean;
    own_timeout text;
begin
    ran := 0;
    perform @extschema@.fence(worker);
    loop
        select t.instance_id, t.seq, t.attempt, t.timeout_s, t.submitted_by, t.request, i.workflow, i.version into task
          from unnest(listens) as q (name)
         cross join lateral (
            select t.* from @extschema@.tasks t
             where t.kind = 'sql' and t.queue = q.name and t.owner is null and t.run_at >= since and t.run_at <= now()
               and (t.submitted_by = current_user or @extschema@.runner_of(t.submitted_by) is not null)
             order by t.run_at
             limit 1
               for update skip locked) t
          join @extschema@.instances i on i.id = t.instance_id
         limit 1;
        exit when not found;
        if ran > 0 and (task.timeout_s is not null or clock_timestamp() >= until) then
            -- What has been done is not to wait for it, nor to be undone with it.
            outcome := 'more';
            return;
        end if;
        select task.seq = any (r.open) into wanted from @extschema@.sql_runs r where r.instance_id = task.instance_id;
        if wanted then
            -- The first waits for others' locks as long as it takes; what has been done by then is not to wait with the next.
            if ran > 0 then
                own_timeout := coalesce(own_timeout, current_setting('lock_timeout'));
                perform set_config('lock_timeout', '100ms', true);
            end if;
            did := @extschema@.try_step(
                task.instance_id, task.seq, task.request -> 'ins', task.request -> 'env', task.request ->> 'path',
                case when task.submitted_by <> current_user then @extschema@.runner_of(task.submitted_by) end,
                task.workflow, task.version, task.timeout_s, true);
            if own_timeout is not null then
                perform set_config('lock_timeout', own_timeout, true);
            end if;
            if did.error is not null and did.error ->> 'sqlstate' in ('40P01', '40001', '55P03', '57014')
               and did.error ->> 'type' <> 'pgdurable.errors.StepTimeout' then
                -- Whoever cancels what a race has no more use for holds this row until that is committed.
                select task.seq = any (r.open) into wanted
                  from @extschema@.sql_runs r where r.instance_id = task.instance_id for share;
                if wanted and not exists (select from @extschema@.events e
                                           where e.instance_id = task.instance_id and e.kind in ('cancel', 'terminate')) then
                    outcome := case when did.error ->> 'sqlstate' = '57014' then 'stop' else 'conflict' end;
                    return;
                end if;
                wanted := false;
            end if;
        end if;
        delete from @extschema@.tasks t where t.instance_id = task.instance_id and t.seq = task.seq;
        if wanted then
            insert into @extschema@.events (instance_id, kind, name, payload)
            values (task.instance_id, 'task', task.request #>> '{ins,name}', jsonb_build_object(
                'seq', task.seq, 'attempt', task.attempt, 'ms', round(did.ms::numeric, 3))
                || case when did.error is null then jsonb_build_object('output', did.result)
                        else jsonb_build_object('error', did.error) end);
            perform pg_notify(@extschema@.channel(), 'event');
        end if;
        ran := ran + 1;
    end loop;
end
$$;
