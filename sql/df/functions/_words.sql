-- A node in one line, for df.explain.
create or replace function df._words(node_type text, query text, result_name text, extra int) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    config jsonb := case when node_type not in ('SQL', 'SLEEP', 'THEN') then coalesce(query, '{}')::jsonb end;
    named text := coalesce(' |=> ''' || result_name || '''', '');
begin
    return case node_type
        when 'SQL' then format('SQL%s: %s', named, df._cut(query, 120))
        when 'SLEEP' then format('SLEEP %ss%s', query, named)
        when 'WAIT_SCHEDULE' then format('WAIT_SCHEDULE ''%s''%s', config ->> 'cron_expr', named)
        when 'SIGNAL' then format('SIGNAL ''%s''%s%s', config ->> 'signal_name',
                                  coalesce(' (' || (config ->> 'timeout_seconds') || 's)', ''), named)
        when 'BREAK' then format('BREAK%s%s', coalesce(' ''' || df._cut(config ->> 'break_value', 40) || '''', ''), named)
        when 'LOOP' then format('LOOP%s%s', case when config ? 'condition_node' then ' (while)' else '' end, named)
        when 'JOIN' then format('JOIN (%s)%s', 2 + extra, named)
        when 'IF' then format('IF%s%s', case when config ? 'result_name'
                                             then format(' rows of $%s', config ->> 'result_name') else '' end, named)
        when 'HTTP' then format('HTTP %s %s%s', config ->> 'method', df._cut(config ->> 'url', 60), named)
        when 'HTTP_MULTIPART' then format('HTTP_MULTIPART %s %s%s', config ->> 'method', df._cut(config ->> 'url', 60), named)
        else node_type || named end;
end
$$;
