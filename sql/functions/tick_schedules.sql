-- What a worker computed for schedules that were due: instances are started and their next times set in one commit.
--
-- Each was computed on a `revision` of its row. A row that has changed since, or that another session writes just now,
-- is passed over: whoever wrote it, or the next look, sees to it. So a tick is started once, whoever computed it how
-- often. The instances' ids follow from the schedule's name and the tick besides: a tick that has its instance gets no
-- other, also by a backfill.
-- Arguments: `worker`: null where the database itself has worked it out (start_scheduled). `ticks`: an array of objects: name, revision; `starts` [{id, key, tick, input}], `cancel` [id];
-- `keep` (of `running`), and the new tick_at, next_at, buffered, requests, note (it pauses), skipped and missed (to add).
-- Locks: the worker's fence; the rows of these schedules, skipping those that are locked; new keys' index entries.
-- Returns: of each schedule that was written its name and how many instances it made; of one that could not be, the
-- server's words for why. The others are written all the same.
-- Raises: PGD01 when the worker itself was taken over.
create or replace function @extschema@.tick_schedules(worker bigint, ticks jsonb)
returns table (name text, made int, refused text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    plan record;
    row_now @extschema@.schedules;
    start record;
    existing uuid;
    living uuid[];
    latest uuid;
    latest_at timestamptz;
begin
    if worker is not null then
        perform @extschema@.fence(worker);
    end if;
    for plan in
        select t.* from jsonb_to_recordset(ticks) as t (
            name text, revision bigint, starts jsonb, cancel uuid[], keep uuid[], tick_at timestamptz,
            next_at timestamptz, buffered timestamptz[], requests jsonb, note text, skipped int, missed int)
    loop
        name := plan.name;
        made := 0;
        refused := null;
        begin
            select s.* into row_now from @extschema@.schedules s
             where s.name = plan.name and s.revision = plan.revision
               for update skip locked;
            continue when not found;
            living := plan.keep;
            latest := row_now.last_instance;
            latest_at := row_now.last_at;
            for start in
                select u.* from jsonb_to_recordset(plan.starts) as u (
                    id uuid, key text, tick timestamptz, input jsonb, labels jsonb)
            loop
                insert into @extschema@.instance_keys (id, instance_id) values (start.key, start.id) on conflict do nothing;
                if found then
                    insert into @extschema@.instances
                        (id, workflow, version, status, queue, priority, wake_at, submitted_by, input, labels, line)
                    values (start.id, row_now.workflow, row_now.definition ->> 'version', 'pending',
                            coalesce(row_now.definition ->> 'queue', 'default'),
                            coalesce((row_now.definition ->> 'priority')::smallint, 0), now(), row_now.submitted_by,
                            case when pg_column_size(start.input) > 1000 then @extschema@.put_aside(start.id, start.input) else start.input end,
                            start.labels,
                            case when row_now.definition ? 'queue' or row_now.definition ? 'priority'
                                 then coalesce((row_now.definition ->> 'priority')::smallint, 0) end);
                    made := made + 1;
                    latest := start.id;
                    latest_at := start.tick;
                    living := living || start.id;
                else
                    select k.instance_id into existing from @extschema@.instance_keys k where k.id = start.key;
                    living := living || existing;
                end if;
            end loop;
            foreach existing in array plan.cancel loop
                perform @extschema@.request_cancel(existing, format('the next tick of schedule %L has come', plan.name));
            end loop;
            update @extschema@.schedules s
               set revision = s.revision + 1, tick_at = plan.tick_at, next_at = plan.next_at, buffered = plan.buffered,
                   requests = plan.requests, paused = s.paused or plan.note is not null,
                   note = coalesce(plan.note, s.note), running = living[greatest(cardinality(living) - 999, 1):],
                   last_at = latest_at, last_instance = latest, started = s.started + made,
                   skipped = s.skipped + plan.skipped, missed = s.missed + plan.missed
             where s.name = plan.name;
        exception when others then
            made := 0;
            refused := sqlerrm;
        end;
        if made > 0 then
            perform pg_notify(@extschema@.channel(), 'due');
        end if;
        return next;
    end loop;
end
$$;
