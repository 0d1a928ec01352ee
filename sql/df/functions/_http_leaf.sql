-- An HTTP node of a graph as one of a definition. References beside other text, and a form, are columns of a query before it.
create or replace function df._http_leaf(id text, config jsonb, base jsonb, vars jsonb) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    held text := 'df_' || id;
    columns text[] := '{}';
    headers jsonb := case jsonb_typeof(config -> 'headers') when 'object' then config -> 'headers' else '{}' end;
    boundary text := 'pgdurable' || md5(config::text);
    request jsonb;
    field record;
    filled text;
    form text;
begin
    if config ? 'parts' then
        headers := headers - 'content-type' - 'Content-Type'
            || jsonb_build_object('Content-Type', 'multipart/form-data; boundary=' || boundary);
        form := df._form_query(config -> 'parts', boundary, vars);
        if form is null then
            return base || jsonb_build_object('op', 'sql', 'query',
                'select df._refuse(''data_b64 takes a whole-value reference, or base64'')');
        end if;
        columns := array[form || ' as c0'];
    elsif config ->> 'body' is not null
          and not exists (select from jsonb_object_keys(headers) as k (k) where lower(k.k) = 'content-type') then
        headers := headers || '{"Content-Type": "application/json"}';
    end if;
    request := jsonb_build_object('url', config -> 'url', 'headers', headers)
        || case when form is not null then jsonb_build_object('body', format('$%s.c0', held))
                when config ->> 'body' is not null then jsonb_build_object('body', config -> 'body') else '{}' end;
    for field in
        select array['url'] as place, config ->> 'url' as value
        union all select array['body'], config ->> 'body' where form is null and config ->> 'body' is not null
        union all select array['headers', h.key], h.value from jsonb_each_text(headers) h
    loop
        filled := df._fill(field.value, vars);
        if df._refs(filled) and not df._is_ref(filled) then
            columns := columns || format('%s as c%s', df._literal(filled), cardinality(columns));
            filled := format('$%s.c%s', held, cardinality(columns) - 1);
        end if;
        request := jsonb_set(request, field.place, to_jsonb(case when df._is_ref(filled) then btrim(filled) else filled end));
    end loop;
    request := request || jsonb_build_object('op', 'http', 'name', id, 'method', coalesce(config ->> 'method', 'POST'),
        'timeout', coalesce((config ->> 'timeout_seconds')::float8, 30), 'ok', '["1xx", "2xx", "3xx", "4xx"]'::jsonb);
    if columns = '{}' then
        return request || base;
    end if;
    return jsonb_build_object('op', 'seq', 'steps', jsonb_build_array(
        jsonb_build_object('op', 'sql', 'query', 'select ' || array_to_string(columns, ', '), 'into', held),
        request)) || (base - 'name');
end
$$;
