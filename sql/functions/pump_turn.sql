-- One turn of a pump, which its caller commits: claims instances of workflows in SQL where it holds none, runs them for some
-- 20 milliseconds, and tasks of others. Once nothing is due it is over, or, where it is to wait, sleeps for a moment.
--
-- Steps of many instances share a commit. Where that fails as a whole (a constraint that is looked at no sooner), everything
-- is undone and done again `careful`ly, step by step. Returns: the pump.
create or replace function @extschema@.pump_turn(pump jsonb) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    me bigint := pump ->> 'me';
    ids uuid[] := array(select e.value::uuid from jsonb_array_elements_text(pump -> 'ids') with ordinality as e (value, n)
                         order by e.n);
    at timestamptz := clock_timestamp();
    ends timestamptz := to_timestamp((pump ->> 'until')::float8);
    until timestamptz;
    most bigint := coalesce((pump ->> 'most')::bigint - (pump ->> 'steps')::bigint, 9223372036854775807);
    careful boolean := pump ? 'careful';
    slow jsonb := pump -> 'slow';
    left_ids uuid[];
    steps bigint := 0;
    outcome text;
    ran int := 0;
    tasks_outcome text;
    tick_at timestamptz;
    message text;
begin
    if coalesce((pump ->> 'look_at')::float8, 0) <= extract(epoch from at) then
        pump := @extschema@.pump_look(pump);
    end if;
    if (pump ->> 'tick_at')::float8 <= extract(epoch from clock_timestamp()) then
        select s.looked, s.next_at into ran, tick_at from @extschema@.start_scheduled(me) s;
        -- What others are writing just now is looked at again in a moment.
        pump := pump || jsonb_build_object('tick_at', greatest(
            extract(epoch from tick_at), extract(epoch from clock_timestamp()) + 0.02));
        if ran > 0 then
            -- Committed at once: a schedule is not to stay locked while steps run.
            return pump || '{"idle": 0}';
        end if;
    end if;
    if pump ? 'tasks_turn' then
        -- In a turn of its own: tasks that this pump has just handed out are there for all pumps once that is committed.
        select t.ran, t.outcome into ran, tasks_outcome
          from @extschema@.run_tasks(me, least(clock_timestamp() + interval '20 milliseconds', ends),
            case when pump ? 'tasks_full' then '-infinity'::timestamptz else (pump ->> 'tasks_since')::timestamptz end,
            array(select jsonb_array_elements_text(pump -> 'queues')), pump -> 'usual') t;
        if tasks_outcome is null then
            pump := pump - 'tasks_full' || jsonb_build_object('tasks_since', at - interval '5 seconds');
        end if;
        perform @extschema@.pump_assert(pump -> 'settings');
        pump := pump - 'tasks_turn' || jsonb_build_object('steps', (pump ->> 'steps')::bigint + ran);
        if ran > 0 or tasks_outcome is not null then
            pump := pump || jsonb_build_object('idle', 0);
        end if;
        if clock_timestamp() >= ends or tasks_outcome = 'stop' or (pump ->> 'steps')::bigint >= (pump ->> 'most')::bigint then
            pump := pump || '{"going": false}';
        end if;
        return pump;
    end if;
    if cardinality(ids) = 0 then
        pump := @extschema@.pump_claim(pump - 'careful');
        ids := array(select e.value::uuid from jsonb_array_elements_text(pump -> 'ids') with ordinality as e (value, n)
                      order by e.n);
        careful := false;
        if cardinality(ids) > 0 then
            -- That they run is known before anything of them does: who cancels one must not wait for the end of its first step.
            perform @extschema@.pump_assert(pump -> 'settings');
            return pump || '{"idle": 0}';
        end if;
    end if;
    until := least(clock_timestamp() + interval '20 milliseconds', ends);
    -- A step that waits for somebody's lock is not to hold up those that share its commit: see run_instance.
    if not pump ? 'patient' and not careful then
        perform set_config('lock_timeout', '100ms', true);
    end if;
    begin
        select b.left_ids, b.steps, b.outcome, b.slow into left_ids, steps, outcome, slow
          from @extschema@.run_batch(me, ids, until, most, careful, slow,
                                       (pump -> 'usual') || jsonb_build_object('lock_timeout', pump #> '{settings,lock_timeout}')) b;
        if not careful then
            set constraints all immediate;
        end if;
    exception when sqlstate 'PGD01' or query_canceled or admin_shutdown then
        raise;
    when others then
        get stacked diagnostics message = message_text;
        if left(sqlstate, 2) in ('53', '57', '58', '40') or sqlstate in ('55P03', '25006') then
            -- The server is in trouble (a full disk, say), or somebody was in the way: that is no instance's fault.
            -- Once more, the others first.
            if careful or left(sqlstate, 2) in ('53', '58') then
                perform pg_sleep(least(0.1, greatest(extract(epoch from ends - clock_timestamp()), 0.001)));
            end if;
            left_ids := case when careful then ids[2:] || ids[1] else ids end;
            outcome := 'alone';
        elsif careful then
            -- An instance that makes the machine itself fail stands still, and harms nobody else.
            update @extschema@.instances i
               set status = 'paused', owner = null, strikes = 0, error = jsonb_build_object(
                   'type', 'SQLSTATE ' || sqlstate, 'sqlstate', sqlstate, 'message', message,
                   'hint', 'Once the cause is mended: select @extschema@.resume(id).')
             where i.id = ids[1] and i.owner = me;
            left_ids := ids[2:];
        else
            left_ids := ids;
            outcome := 'alone';
        end if;
        steps := 0;
        -- What waited in vain may be the machine itself, for a row that a client holds: then it waits as long as it takes.
        pump := pump || case when sqlstate = '55P03' and not pump ? 'patient' then '{"patient": true}' else '{"careful": true}' end::jsonb;
    end;
    if outcome is distinct from 'alone' then
        pump := pump - 'patient';
    end if;
    perform set_config('lock_timeout', pump #>> '{settings,lock_timeout}', true);
    pump := pump || jsonb_build_object(
        'ids', to_jsonb(left_ids), 'slow', slow, 'steps', (pump ->> 'steps')::bigint + steps);
    perform @extschema@.pump_assert(pump -> 'settings');
    at := clock_timestamp();
    if cardinality(ids) > 0 then
        pump := pump || jsonb_build_object('idle', 0);
    else
        pump := pump || jsonb_build_object('idle', least((pump ->> 'idle')::int + 1, 10));
        if (pump ->> 'wait')::boolean and at < ends then
            -- A little longer each time, up to 50 milliseconds.
            perform pg_sleep(least(0.005 * (pump ->> 'idle')::int, greatest(extract(epoch from ends - at), 0.001)));
        elsif not (pump ->> 'was_full')::boolean then
            -- Nothing where it looked: once more, from the beginning.
            pump := pump - 'full_at';
        elsif (pump ->> 'idle')::int > 1 then
            -- And tasks have had a turn since.
            pump := pump || '{"going": false}';
        end if;
    end if;
    if at >= ends or (pump ->> 'steps')::bigint >= (pump ->> 'most')::bigint or outcome = 'stop' then
        pump := pump || '{"going": false}';
    end if;
    pump := pump || '{"tasks_turn": true}';
    return pump;
end
$$;
