-- A node as JSON: what a function of this schema made as it is, any other text as a step that runs it.
--
-- Raises: 22023 where the text is neither.
create or replace function df._ensure(step text) returns jsonb
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    node jsonb;
    helper text := current_setting('df.helper', true);
begin
    if left(ltrim(step, e' \t\n\r'), 1) = '{' then
        begin
            node := step::jsonb;
        exception when others then
            node := null;  -- no JSON: SQL that begins with a variable
        end;
        if node ? 'node_type' then
            if (node ->> 'node_type') <> all (df._node_types()) then
                raise exception using errcode = '22023',
                    message = format('Unknown node_type ''%s''', node ->> 'node_type'),
                    hint = format('Known are %s.', array_to_string(df._node_types(), ', '));
            end if;
            return node;
        end if;
    elsif split_part(helper, e'\n', 2) = statement_timestamp()::text then
        raise exception using errcode = '22023',
            message = format('%s cannot be used as a workflow step', split_part(helper, e'\n', 1)),
            hint = format('Call %s in a statement of its own, before df.start().', split_part(helper, e'\n', 1));
    end if;
    return jsonb_build_object('node_type', 'SQL', 'query', step);
end
$$;
