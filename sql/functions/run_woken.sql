-- What a command that waited has come to, as run_instance writes it down: `got` is what it was given, or an object with
-- `error` where it could not begin to wait.
create or replace function @extschema@.run_woken(
    ins jsonb, got jsonb,
    out result jsonb, out error jsonb, out ms float8, out kind text, out name text, out retriable boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    name := ins ->> 'name';
    retriable := true;
    kind := case coalesce(got ->> 'what', 'task') when 'task' then 'step' when 'child' then 'child_end' else got ->> 'what' end;
    error := nullif(got -> 'error', 'null');
    ms := got ->> 'ms';
    case got ->> 'what'
    when 'task', 'started' then
        result := coalesce(got -> 'output', 'null');
        retriable := coalesce((error ->> 'retryable')::boolean, true);
        kind := case when got ->> 'what' = 'started' then 'child' else kind end;
        error := case when error is not null then error || jsonb_build_object('step', name) end;
    when 'replayed' then
        result := coalesce(got -> 'output', 'null');
        retriable := (got ->> 'again')::boolean;
        kind := got ->> 'kind';
        name := coalesce(got ->> 'name', name);
    when 'signal' then
        result := jsonb_build_object('timed_out', got ? 'timed_out', 'data', coalesce(got -> 'payload', 'null'));
        kind := case when got ? 'timed_out' then 'timer' else kind end;
        name := coalesce(got ->> 'name', name);
    when 'child' then
        result := coalesce(got -> 'output', 'null');
        -- A child has had its own attempts: it is started anew only where its node says so.
        retriable := ins ? 'retry';
        error := case when got ->> 'status' <> 'completed' then jsonb_strip_nulls(jsonb_build_object(
            'type', 'pgdurable.errors.InstanceFailed', 'sqlstate', coalesce(error ->> 'sqlstate', 'PGD06'), 'step', name,
            'message', format('child %s of step %s ended %s%s', got ->> 'id', name, got ->> 'status',
                              ': ' || (error ->> 'message')),
            'status', got -> 'status', 'cause', error)) end;
    else
        result := 'null';
    end case;
end
$$;
