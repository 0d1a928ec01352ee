-- What is wrong with one node of a graph, but for what is below it; null: nothing.
create or replace function df._wrong(node jsonb, role text, too_deep bool) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    node_type text;
    config jsonb;
    holds_nodes boolean;
begin
    if jsonb_typeof(node) <> 'object' then
        return case role when 'extra' then 'extra_nodes entries must be Durofut JSON objects'
            when 'condition' then 'condition_node must be a Durofut JSON object'
            else format('a node must be a JSON object, found %s', jsonb_typeof(node)) end;
    end if;
    node_type := node ->> 'node_type';
    if node_type is null or node_type <> all (df._node_types()) then
        return case when role = 'condition' then 'condition_node: ' else '' end
            || format('Unknown node_type ''%s''', coalesce(node_type, 'null'));
    elsif too_deep then
        return 'the graph exceeds the maximum nesting depth of 256';
    end if;
    if node ? 'condition_node' and node_type not in ('IF', 'LOOP') then
        return format('condition_node is not valid for %s nodes', node_type);
    elsif node ? 'extra_nodes' and node_type <> 'JOIN' then
        return format('extra_nodes is not valid for %s nodes', node_type);
    elsif coalesce(jsonb_typeof(node -> 'extra_nodes'), 'array') <> 'array' then
        return 'extra_nodes must be an array';
    elsif (node ->> 'result_name') !~ '^[A-Za-z_][A-Za-z0-9_]*$' then
        return format('result_name %L is not a valid identifier', node ->> 'result_name');
    end if;
    if node_type in ('THEN', 'JOIN', 'RACE', 'IF')
       and (jsonb_typeof(node -> 'left_node') is null or jsonb_typeof(node -> 'right_node') is null)
       or node_type = 'LOOP' and jsonb_typeof(node -> 'left_node') is null
    then
        return format('%s lacks a node below it', node_type);
    elsif node_type not in ('THEN', 'JOIN', 'RACE', 'IF', 'LOOP') and (node ? 'left_node' or node ? 'right_node') then
        return format('%s has no node below it', node_type);
    elsif node_type = 'LOOP' and node ? 'right_node' then
        return 'LOOP has one node below it, and perhaps a condition_node';
    end if;
    holds_nodes := node ? 'condition_node' or node ? 'extra_nodes';
    if node_type in ('SQL', 'SLEEP') then
        if node ->> 'query' is null then
            return format('%s needs a query', node_type);
        elsif node_type = 'SLEEP' and (node ->> 'query') !~ '^\s*\d{1,11}(\.\d+)?\s*$' then
            return format('SLEEP needs a number of seconds, found %L', node ->> 'query');
        end if;
        return null;
    end if;
    if node ->> 'query' is not null then
        begin
            config := (node ->> 'query')::jsonb;
        exception when others then
            return format('query in %s must be valid JSON config', node_type);
        end;
        if jsonb_typeof(config) <> 'object' then
            return format('query in %s must be a JSON config object', node_type);
        end if;
        if config ? 'condition_node' and not node ? 'condition_node' then
            return format('condition_node in %s must be a first-class Durofut field of its own', node_type);
        elsif config ? 'extra_nodes' and not node ? 'extra_nodes' then
            return format('extra_nodes in %s must be a first-class Durofut field of its own', node_type);
        end if;
    end if;
    return case
        when node_type = 'IF' and not node ? 'condition_node'
             and (config ->> 'condition_type' is distinct from 'result_has_rows' or config ->> 'result_name' is null)
            then 'IF needs a condition_node'
        when node_type = 'WAIT_SCHEDULE' and config ->> 'cron_expr' is null then 'WAIT_SCHEDULE needs a cron_expr'
        when node_type = 'SIGNAL' and config ->> 'signal_name' is null then 'SIGNAL needs a signal_name'
        when node_type in ('HTTP', 'HTTP_MULTIPART') and config ->> 'url' is null then format('%s needs a url', node_type)
    end;
end
$$;
