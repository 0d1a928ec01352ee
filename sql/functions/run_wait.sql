-- Begins what a command waits for: a time, a signal, a step that others run, a child.
--
-- Arguments: the instruction, the variables, and what is known of the step: its number, its attempt, its timeout.
-- Returns: parts of the thread: `wait`, with `got` where it is there already; or `error`. And `started`: the child it waits for.
create or replace function @extschema@.run_wait(
    target uuid, submitter text, queue text, ins jsonb, path text, limit_s float8, seq int, att int, env jsonb)
returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    op text := ins ->> 'o';
    a jsonb;
    due float8;
    wait jsonb;
    child uuid;
    message text;
    hint text;
begin
    if op = 'sql' then
        perform @extschema@.make_task(target, seq, 'sql', ins ->> 'name', queue, submitter, att, limit_s,
            jsonb_build_object('path', path, 'env', env, 'ins', ins));
        return jsonb_build_object('wait', jsonb_build_object('k', 'task', 'seq', seq));
    end if;
    a := @extschema@.resolve(ins -> 'a', env);
    case op
    when 'sleep' then
        wait := jsonb_build_object('k', 'timer', 'due',
            extract(epoch from clock_timestamp()) + greatest((a ->> 'seconds')::float8, 0));
    when 'wait_until' then
        wait := jsonb_build_object('k', 'timer', 'due', case jsonb_typeof(a -> 'at')
            when 'number' then (a ->> 'at')::float8 else extract(epoch from (a ->> 'at')::timestamptz) end);
    when 'wait_for_schedule' then
        wait := jsonb_build_object('k', 'timer', 'due', extract(epoch from
            @extschema@.cron_next(a ->> 'cron', coalesce(a ->> 'tz', 'UTC'), clock_timestamp())));
    when 'wait_signal' then
        wait := jsonb_strip_nulls(jsonb_build_object('k', 'signal', 'name', a -> 'signal', 'due',
            extract(epoch from clock_timestamp()) + (a ->> 'timeout')::float8));
    when 'http', 'python', 'external' then
        perform @extschema@.make_task(target, seq, op, case op when 'python' then a ->> 'step' else ins ->> 'name' end,
            coalesce(a ->> 'queue', case op when 'external' then 'default' else queue end), submitter, att,
            (a ->> 'timeout')::float8, @extschema@.task_request(ins, a));
        wait := jsonb_build_object('k', 'outside');
    when 'start_child' then
        child := @extschema@.new_id();
        perform @extschema@.write_child(target, seq, jsonb_strip_nulls(jsonb_build_object(
            'id', child, 'workflow', a -> 'workflow', 'version', a -> 'version', 'key', a -> 'id', 'queue', a -> 'queue',
            'parent_close', coalesce(a ->> 'parent_close', 'cancel')))
            || jsonb_build_object('input', coalesce(nullif(a -> 'input', 'null'), '{}')));
        wait := case when coalesce((a ->> 'wait')::boolean, true) then jsonb_build_object('k', 'child', 'id', child)
                     else jsonb_build_object('k', 'child', 'got', jsonb_build_object(
                          'what', 'started', 'output', jsonb_build_object('id', coalesce(a ->> 'id', child::text)))) end;
    end case;
    if wait ->> 'k' = 'timer' and wait ->> 'due' is null then
        raise exception using errcode = 'PGD20', message = format('%s has no time to wait for', op);
    end if;
    return jsonb_build_object('wait', wait || jsonb_build_object('seq', seq))
        || case when child is not null and not wait ? 'got' then jsonb_build_object('started', child) else '{}' end;
exception when others then
    get stacked diagnostics message = message_text, hint = pg_exception_hint;
    return jsonb_build_object('error', jsonb_strip_nulls(jsonb_build_object(
        'type', 'SQLSTATE ' || sqlstate, 'sqlstate', sqlstate, 'step', ins -> 'name', 'message', message,
        'hint', nullif(hint, ''))));
end
$$;
