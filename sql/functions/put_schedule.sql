-- Makes a schedule, or changes the one of this name. The same again changes nothing, so a service may call it at every
-- start. What a change does not touch goes on: the instances that run, the ticks that wait for them, a pause.
--
-- Arguments: `definition` as in the table; what is null in it counts as left out. `input` null: as it is.
-- `replace` false: raises where there is none yet.
-- `security definer`: whoever may execute it needs no right to the tables. The instances are submitted by who made it.
-- Locks: the schedule's row until the caller commits.
-- Returns: whether anything changed.
-- Raises: PGD04 the name is taken by somebody else's; PGD05 something in the definition is not one; PGD10 no such schedule.
create or replace function @extschema@.put_schedule(
    name text, workflow text, input jsonb, definition jsonb, replace boolean default true)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    made jsonb := '{"overlap": "skip"}' || jsonb_strip_nulls(definition);
    old @extschema@.schedules;
    wrong text;
    found_zone boolean;
begin
    if name is null or octet_length(name) not between 1 and 200 then
        raise exception using errcode = 'PGD05', message = 'a schedule needs a name of 1 to 200 bytes',
            hint = 'The ids of its instances begin with it.';
    end if;
    select s.* into old from @extschema@.schedules s where s.name = put_schedule.name for update;
    if old.name is null and not replace then
        raise exception using errcode = 'PGD10', message = format('there is no schedule %L', name),
            hint = 'select name from @extschema@.schedules lists those there are.';
    end if;
    if @extschema@.hidden(old.submitted_by) then
        raise exception using errcode = 'PGD04', message = format('the name %L is taken by a schedule that you may not see', name),
            hint = 'Choose another name: they are shared by all who use this namespace.';
    end if;
    if workflow is null or octet_length(workflow) not between 1 and 512 then
        raise exception using errcode = 'PGD05', message = format('schedule %L needs the name of a workflow', name),
            hint = 'select distinct name from @extschema@.workflows lists those that workers have registered.';
    end if;
    if jsonb_typeof(input) not in ('object', 'array') then
        raise exception using errcode = 'PGD05',
            message = format('the input of schedule %L is a JSON %s', name, jsonb_typeof(input)),
            hint = 'Pass an object by parameter name, or an array of positional arguments.';
    end if;
    select string_agg(k.key, ', ') into wrong from jsonb_object_keys(made) k (key)
     where k.key not in ('cron', 'tz', 'every_s', 'anchor', 'at', 'overlap', 'catch_up_s', 'jitter_s', 'pause_on_failure',
                         'version', 'queue', 'priority', 'labels');
    if wrong is not null then
        raise exception using errcode = 'PGD05', message = format('schedule %L: nothing is called %s', name, wrong),
            hint = 'There are cron, tz, every_s, anchor, at, overlap, catch_up_s, jitter_s, pause_on_failure, version, queue, priority and labels.';
    end if;
    if (made ? 'cron')::int + (made ? 'every_s')::int + (made ? 'at')::int <> 1 then
        raise exception using errcode = 'PGD05',
            message = format('schedule %L needs one of cron, every and at, found %s', name,
                case when made ?| array['cron', 'every_s', 'at'] then 'several' else 'none' end),
            hint = 'For example: cron => ''0 3 * * 1-5'', tz => ''Europe/Berlin''; or every => ''15 minutes''.';
    end if;
    if made ->> 'overlap' not in ('skip', 'buffer_one', 'buffer_all', 'cancel_other', 'allow') then
        raise exception using errcode = 'PGD05',
            message = format('schedule %L: overlap is skip, buffer_one, buffer_all, cancel_other or allow, found %L', name,
                             made ->> 'overlap');
    end if;
    if jsonb_typeof(coalesce(made -> 'every_s', '1')) <> 'number' or jsonb_typeof(coalesce(made -> 'catch_up_s', '0')) <> 'number'
       or jsonb_typeof(coalesce(made -> 'jitter_s', '0')) <> 'number' or (made ->> 'every_s')::numeric < 0.1
       or (made ->> 'catch_up_s')::numeric < 0 or (made ->> 'jitter_s')::numeric < 0 then
        raise exception using errcode = 'PGD05',
            message = format('schedule %L: every is at least 0.1 s, catch_up and jitter at least 0', name);
    end if;
    if made ? 'tz' then
        select exists (select from pg_timezone_names z where lower(z.name) = lower(made ->> 'tz')) into found_zone;
        if not found_zone then
            raise exception using errcode = 'PGD05', message = format('schedule %L: there is no time zone %L', name, made ->> 'tz'),
                hint = 'select name from pg_timezone_names lists them; for example Europe/Berlin.';
        end if;
    end if;
    if made ? 'every_s' and not made ? 'anchor' then
        made := made || jsonb_build_object('anchor', case when old.definition -> 'every_s' = made -> 'every_s'
            then old.definition ->> 'anchor'
            else to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"') end);
    end if;
    if old.name is null then
        insert into @extschema@.schedules (name, workflow, definition, input, submitted_by, next_at)
        values (name, workflow, made, coalesce(input, '{}'), @extschema@.caller(), now())
        on conflict on constraint schedules_pkey do nothing;
        if not found then  -- somebody made it just now
            return @extschema@.put_schedule(name, workflow, input, definition, replace);
        end if;
    elsif old.workflow = workflow and old.definition = made and (input is null or old.input = input) then
        return false;
    else
        -- A tick that is due already is the old definition's; those from now on are the new one's.
        update @extschema@.schedules s
           set workflow = put_schedule.workflow, definition = made, input = coalesce(put_schedule.input, s.input),
               revision = s.revision + 1,
               since = case when s.tick_at <= now() then s.tick_at - interval '1 microsecond' else now() end,
               tick_at = null, next_at = case when not s.paused then now() end
         where s.name = put_schedule.name;
    end if;
    perform pg_notify(@extschema@.channel(), 'due');
    return true;
end
$$;
