-- Makes a schedule, or changes the one of this name into this: a workflow that is started by the clock, once per tick,
-- by whichever worker has it. The same again changes nothing.
--
-- Arguments: one of `cron` (five fields, or six with seconds first; in `tz`), `every` (counted from `anchor`, by default
-- from now) and `at` (once). `overlap`: what a tick does while the instance before it runs. `catch_up`: how old a tick
-- may be that nobody was there to start; null: of those that were missed, the last one is started. `jitter`: each tick
-- is put off by up to so much. `pause_on_failure`: it pauses when an instance of its ends failed.
-- Workers compute the times: a `cron` that is none shows as a pause with a note, a moment later.
-- Returns: whether anything changed.
-- Raises: as put_schedule.
create or replace function @extschema@.schedule(
    name text, workflow text, input jsonb default '{}', cron text default null, tz text default null,
    every interval default null, anchor timestamptz default null, at timestamptz default null,
    overlap text default 'skip', catch_up interval default null, jitter interval default null,
    pause_on_failure boolean default false, version text default null, queue text default 'default',
    priority int default 0, labels jsonb default null)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if extract(month from every) <> 0 or extract(year from every) <> 0 then
        raise exception using errcode = 'PGD05', message = format('schedule %L: months differ in length', name),
            hint = 'Use cron: ''0 0 1 * *'' is the first of each month.';
    end if;
    return @extschema@.put_schedule(name, workflow, input, jsonb_build_object(
        'cron', cron, 'tz', case when cron is not null then coalesce(tz, 'UTC') end,
        'every_s', extract(epoch from every)::float8,
        'anchor', to_char(anchor at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
        'at', to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'),
        'overlap', coalesce(overlap, 'skip'), 'catch_up_s', extract(epoch from catch_up)::float8,
        'jitter_s', nullif(extract(epoch from jitter)::float8, 0),
        'pause_on_failure', nullif(pause_on_failure, false), 'version', version,
        'queue', nullif(queue, 'default'), 'priority', nullif(priority, 0), 'labels', labels));
end
$$;
