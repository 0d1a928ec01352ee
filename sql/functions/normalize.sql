-- A definition in its one form: a bare text is a `sql` node, a bare array a `seq`, `retry: 3` is {"max_attempts": 3}, and an
-- interval written as text ("5 minutes") is seconds. What is no definition stays as it is: `check_definition` tells.
create or replace function @extschema@.normalize(definition jsonb)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    node jsonb := definition;
    field text;
begin
    case jsonb_typeof(node)
    when 'string' then
        return jsonb_build_object('op', 'sql', 'query', node);
    when 'array' then
        node := jsonb_build_object('op', 'seq', 'steps', node);
    when 'object' then
    else
        return node;
    end case;
    foreach field in array array['steps', 'branches'] loop
        if jsonb_typeof(node -> field) = 'array' and node ->> 'op' in ('seq', 'atomic', 'parallel', 'race') then
            node := jsonb_set(node, array[field], (
                select coalesce(jsonb_agg(@extschema@.normalize(u.e) order by u.n), '[]')
                  from jsonb_array_elements(node -> field) with ordinality as u (e, n)));
        end if;
    end loop;
    foreach field in array array['when', 'then', 'else', 'body', 'while', 'handler', 'undo'] loop
        if node ? field and node ->> 'op' in ('if', 'loop', 'for_each', 'on_error', 'compensate') then
            node := jsonb_set(node, array[field], @extschema@.normalize(node -> field));
        end if;
    end loop;
    if jsonb_typeof(node -> 'retry') = 'number' then
        node := jsonb_set(node, '{retry}', jsonb_build_object('max_attempts', node -> 'retry'));
    end if;
    foreach field in array array['timeout', 'seconds'] loop
        node := @extschema@.normal_seconds(node, array[field]);
    end loop;
    foreach field in array array['initial', 'max_interval'] loop
        node := @extschema@.normal_seconds(node, array['retry', field]);
    end loop;
    return node;
end
$$;
