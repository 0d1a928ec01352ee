-- Runs one step, or a node `atomic` with all in it, in a subtransaction: what fails leaves nothing behind.
--
-- Arguments: `ins`: its instruction; `env`: the variables; `runner`: see runner_of, null: as the caller; `limit_s`: its
-- timeout: while it runs, `application_name` says until when (see say_deadline), and what was not stopped by then is undone all
-- the same; `task_seq`: its number where it is run as a task; `careful`: deferred constraints are looked at here, not at the
-- commit; `code`, `pc`, `last`: for atomic.
-- Returns: the result, or the error as `$error` gives it; how long it took; and what run_instance writes down.
create or replace function @extschema@.try_step(
    target uuid, task_seq int, ins jsonb, env jsonb, path text, runner text, workflow text, version text,
    limit_s float8, careful boolean, code jsonb default null, pc int default null, last jsonb default null,
    out result jsonb, out error jsonb, out ms float8, out kind text, out name text, out retriable boolean)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    began timestamptz;
    message text;
    detail text;
    hint text;
    context text;
begin
    kind := 'step';
    name := ins ->> 'name';
    retriable := true;
    if limit_s is not null or task_seq is not null then
        perform @extschema@.say_deadline(target, task_seq, limit_s);
    end if;
    began := clock_timestamp();
    begin
        if ins ->> 'o' = 'atomic' then
            result := @extschema@.run_atomic(target, code, pc, last, env, path, runner, workflow);
        else
            result := @extschema@.run_step(target, ins, env, path, runner, workflow);
        end if;
        if careful then
            set constraints all immediate;
        end if;
        ms := extract(epoch from clock_timestamp() - began) * 1000;
        if ms > limit_s * 1000 then
            raise query_canceled using message = 'it ended too late';
        end if;
    exception when query_canceled or others then
        get stacked diagnostics message = message_text, detail = pg_exception_detail, hint = pg_exception_hint,
                                context = pg_exception_context;
        result := null;
        ms := extract(epoch from clock_timestamp() - began) * 1000;
        if sqlstate = '57014' and ms >= limit_s * 1000 then
            error := jsonb_build_object(
                'type', 'pgdurable.errors.StepTimeout', 'sqlstate', sqlstate, 'step', name,
                'message', format('step %s of workflow %s ran over its timeout of %s s', name, workflow, limit_s),
                'timeout_s', limit_s);
        else
            error := jsonb_strip_nulls(jsonb_build_object(
                'type', 'SQLSTATE ' || sqlstate, 'sqlstate', sqlstate, 'message', message, 'step', name,
                'detail', nullif(detail, ''), 'hint', nullif(hint, ''), 'context', left(nullif(context, ''), 2000)));
        end if;
    end;
    if limit_s is not null or task_seq is not null then
        perform @extschema@.say_deadline(null, null, null);
    end if;
end
$$;
