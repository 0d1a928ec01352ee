-- A node of a graph without nodes below it as one of a definition.
--
-- `id` becomes its name, so that its history leads back to it. `used`: whether anybody sees its result.
create or replace function df._leaf(id text, node_type text, query text, result_name text, used bool, vars jsonb)
returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    base jsonb := jsonb_strip_nulls(jsonb_build_object('name', id, 'into', result_name));
    held text := 'df_' || id;
    -- As theirs, what fails has failed; but for what is over in a moment.
    retry constant jsonb := '{"on": ["08", "40", "53", "55P03", "57P01", "57P02", "57P03", "58"]}';
    config jsonb;
    filled text;
    step jsonb;
    result jsonb;
begin
    if node_type = 'SQL' then
        filled := df._fill(query, vars);
        return base || case when df._is_ref(filled) then jsonb_build_object('op', 'value', 'value', btrim(filled))
            else jsonb_build_object('op', 'sql', 'query', filled, 'retry', retry) end;
    end if;
    config := case when node_type <> 'SLEEP' then query::jsonb end;
    if node_type in ('HTTP', 'HTTP_MULTIPART') then
        return df._http_leaf(id, config, base, vars);
    elsif node_type = 'BREAK' then
        filled := df._fill(config ->> 'break_value', vars);
        result := case when filled is not null then df._json(filled) end;
        if filled is null then
            return jsonb_build_object('op', 'break', 'name', id);
        elsif not df._refs(filled) or (df._whole(result) and (jsonb_typeof(result) <> 'string' or df._is_ref(filled))) then
            return jsonb_build_object('op', 'break', 'name', id, 'value',
                                      case when df._is_ref(filled) then to_jsonb(btrim(filled)) else result end);
        end if;
        return jsonb_build_object('op', 'seq', 'steps', jsonb_build_array(
            jsonb_build_object('op', 'sql', 'into', held, 'query', format('select df._json(%s) as v', df._literal(filled))),
            jsonb_build_object('op', 'break', 'name', id, 'value', '$' || held || '.v?')));
    elsif node_type = 'SLEEP' then
        step := jsonb_build_object('op', 'sleep', 'seconds', query::numeric);
        result := jsonb_build_object('slept', true, 'seconds', query::numeric);
    elsif node_type = 'WAIT_SCHEDULE' then
        step := jsonb_build_object('op', 'wait_for_schedule', 'cron', config ->> 'cron_expr', 'tz', 'UTC');
        result := '{"scheduled": true}';
    elsif node_type = 'SIGNAL' then
        step := jsonb_strip_nulls(jsonb_build_object('op', 'wait_signal', 'signal', config ->> 'signal_name',
            'timeout', (config ->> 'timeout_seconds')::float8, 'into', case when used then held end));
        result := jsonb_build_object('signal_name', config ->> 'signal_name', 'timed_out', '$' || held || '.timed_out',
                                     'data', '$' || held || '.data?');
    end if;
    step := step || jsonb_build_object('name', id);
    return case when not used then step else jsonb_build_object('op', 'seq', 'steps', jsonb_build_array(
        step, jsonb_build_object('op', 'value', 'value', result))) || (base - 'name') end;
end
$$;
