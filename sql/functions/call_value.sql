-- The expression, of type jsonb, for JSON in which "$ref" strings stand, however deep: what `resolve` makes of it, as SQL that
-- bind takes. Without any, the JSON as a literal.
create or replace function @extschema@.call_value(value jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    text constant text := value #>> '{}';
begin
    if strpos(value::text, '$') > 0 then
        case jsonb_typeof(value)
        when 'object' then
            -- By parts: a function takes no more than a hundred arguments.
            return (select '(' || string_agg(format('jsonb_build_object(%s, %s)', @extschema@.dollar_quoted(e.key),
                                                    @extschema@.call_value(e.value)), ' || ' order by e.key) || ')'
                      from jsonb_each(value) e);
        when 'array' then
            return (select '(' || string_agg(format('jsonb_build_array(%s)', @extschema@.call_value(u.e)), ' || ' order by u.n) || ')'
                      from jsonb_array_elements(value) with ordinality as u (e, n));
        when 'string' then
            if text ~ '^\$[a-zA-Z_][\w.]*\??$' then
                return format('coalesce(jsonb_path_query_first(%s, ''$''), ''null'')', text);
            end if;
            return format('to_jsonb(%s::text)', @extschema@.call_word(text));
        else
            null;
        end case;
    end if;
    return @extschema@.dollar_quoted(value::text) || '::jsonb';
end
$$;
