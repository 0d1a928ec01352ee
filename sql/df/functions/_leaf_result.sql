-- What a node without nodes below it came to, of what its row in history holds.
create or replace function df._leaf_result(node_type text, query text, value jsonb) returns jsonb
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case
        when value is null then null
        when node_type = 'SLEEP' then jsonb_build_object('slept', true, 'seconds', query::numeric)
        when node_type = 'WAIT_SCHEDULE' then '{"scheduled": true}'::jsonb
        when node_type = 'SIGNAL' then jsonb_build_object('signal_name', query::jsonb ->> 'signal_name') || case
            when value ? 'timed_out' then value else jsonb_build_object('timed_out', false, 'data', value) end
        when node_type = 'SQL' then value
        when node_type in ('HTTP', 'HTTP_MULTIPART') then (value - 'json') || case
            when value ->> 'encoding' <> 'base64' then '{"encoding": "text"}'::jsonb else '{}' end
    end
$$;
