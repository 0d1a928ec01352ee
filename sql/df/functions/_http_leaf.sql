-- An HTTP node of a graph as one of a definition. References beside other text become columns of a query before it.
create or replace function df._http_leaf(id text, config jsonb, base jsonb, multipart bool, vars jsonb)
returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    held text := 'df_' || id;
    columns text[] := '{}';
    request jsonb;
    field record;
    filled text;
    wrong text;
begin
    request := jsonb_build_object('url', config -> 'url') || case
        when multipart then jsonb_build_object('multipart', config -> 'parts')
        when config ->> 'body' is null then '{}' else jsonb_build_object('body', config -> 'body') end
        || case jsonb_typeof(config -> 'headers') when 'object' then jsonb_build_object('headers', config -> 'headers')
           else '{}' end;
    for field in
        with recursive leaves as (
            select '{}'::text[] as place, request as value
            union all
            select l.place || c.key, c.value
              from leaves l
             cross join lateral (
                select o.key, o.value from jsonb_each(case jsonb_typeof(l.value) when 'object' then l.value else '{}' end) o
                union all
                select (a.n - 1)::text, a.value
                  from jsonb_array_elements(case jsonb_typeof(l.value) when 'array' then l.value else '[]' end)
                       with ordinality as a (value, n)
             ) c)
        select l.place, l.value #>> '{}' as value from leaves l
         where jsonb_typeof(l.value) = 'string' and l.value #>> '{}' ~ '[{$]'
         order by l.place
    loop
        filled := df._fill(field.value, vars);
        if df._refs(filled) and not df._is_ref(filled) then
            if field.place[cardinality(field.place)] = 'data_b64' then
                wrong := filled;
            end if;
            columns := columns || format('%s as c%s', df._literal(filled), cardinality(columns));
            filled := format('$%s.c%s', held, cardinality(columns) - 1);
        end if;
        request := jsonb_set(request, field.place, to_jsonb(btrim(filled)));
    end loop;
    request := jsonb_build_object('op', 'http', 'name', id, 'method', coalesce(config ->> 'method', 'POST'), 'raw', true,
                                  'timeout', coalesce((config ->> 'timeout_seconds')::float8, 30),
                                  'ok', jsonb_build_array('1xx', '2xx', '3xx', '4xx')) || request;
    if wrong is not null then
        return jsonb_build_object('op', 'sql', 'name', id, 'query', format('select df._refuse(%s)', quote_literal(
            format('data_b64 takes a whole-value reference or base64, found %s', replace(wrong, '$', '')))));
    elsif columns = '{}' then
        return request || base;
    end if;
    return jsonb_build_object('op', 'seq', 'steps', jsonb_build_array(
        jsonb_build_object('op', 'sql', 'query', 'select ' || array_to_string(columns, ', '), 'into', held),
        request)) || (base - 'name');
end
$$;
