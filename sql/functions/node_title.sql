-- What a node does, in a line, for people: `explain` draws with it.
create or replace function @extschema@.node_title(node jsonb)
returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select concat_ws(' ',
        case when node ? 'name' then (node ->> 'name') || ':' end,
        node ->> 'op',
        left(regexp_replace(case node ->> 'op'
            when 'sql' then node ->> 'query'
            when 'call' then concat(node ->> 'function', '(', btrim(coalesce(node ->> 'args', ''), '[]'), ')')
            when 'for_each' then concat('$', coalesce(node ->> 'as', 'item'), ' in ', coalesce(node ->> 'query', node ->> 'in'))
            when 'sleep' then case when jsonb_typeof(node -> 'seconds') = 'number'
                then make_interval(secs => (node ->> 'seconds')::float8)::text else node ->> 'seconds' end
            when 'wait_until' then node ->> 'at'
            when 'wait_for_schedule' then concat_ws(' ', node ->> 'cron', node ->> 'tz')
            when 'wait_signal' then node ->> 'signal'
            when 'http' then concat_ws(' ', coalesce(node ->> 'method', 'GET'), node ->> 'url')
            when 'start_child' then node ->> 'workflow'
            when 'python' then node ->> 'step'
            when 'rows' then '$' || (node ->> 'of')
            when 'break' then node ->> 'value'
            when 'value' then node ->> 'value'
            end, '\s+', ' ', 'g'), 70),
        case when node ? 'into' then '-> $' || (node ->> 'into') end,
        case when node ? 'limit' then format('(%s at once)', node ->> 'limit') end,
        case when node ? 'retry' then format('[%s]', concat_ws(', ',
            'at most ' || (node #>> '{retry,max_attempts}') || ' attempts', 'on ' || (node #>> '{retry,on}'))) end,
        case when node ? 'timeout' then format('[timeout %s s]', node ->> 'timeout') end,
        case when node @> '{"continue_on_error": true}' then '[goes on when it fails]' end)
$$;
