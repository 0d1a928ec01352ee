-- The SQL expression that a string with references in it becomes when it is of this type (0: text).
--
-- As `ref_expression`. Where the string is an array, a range, a record, JSON or XML to be, each value is quoted as that format
-- wants it, so that no value can add an element, a field or a tag. A name that no variable has stays as it is written.
-- Arguments: a part of `scan_query` that is such a string.
create or replace function @extschema@.lit_expression(part jsonb, type oid)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    t record;
    piece jsonb;
    texts text[] := '{}';
    before text := '';           -- the string so far, its own quoting undone
    inside boolean;              -- whether a quote of the format is open there
    path text;
    value text;
    esc constant boolean := part ->> 'esc';
begin
    select * into t from @extschema@.type_kind(case when coalesce(type, 0) = 0 then 'text'::regtype else type end);
    for piece in select p from jsonb_array_elements(part -> 'lit') as p loop
        if jsonb_typeof(piece) = 'string' then
            value := piece #>> '{}';
            if value <> '' then
                texts := texts || format('%s''%s''::pg_catalog.text', case when esc then 'E' end, value);
                before := before || replace(case when esc then regexp_replace(value, '\\(.)', '\1', 'g') else value end, '''''', '''');
            end if;
            continue;
        end if;
        path := quote_literal((array(select jsonb_array_elements_text(@extschema@.env_path(piece))))::text) || '::pg_catalog.text[]';
        value := format('($1 operator(pg_catalog.#>>) %s)', path);
        -- Quotes that a backslash stands before do not count.
        inside := length(regexp_replace(regexp_replace(before, '\\.', '', 'g'),
                                        case when t.kind = 'tsearch' then '[^'']' else '[^"]' end, '', 'g')) % 2 = 1;
        if t.kind in ('json', 'jsonpath') then
            value := case when inside then
                    format('pg_catalog.regexp_replace(pg_catalog.to_json(%s)::pg_catalog.text, ''^"|"$'', '''', ''g'')', value)
                else format('coalesce(($1 operator(pg_catalog.#>) %s)::pg_catalog.text, ''null'')', path) end;
        elsif t.kind in ('array', 'record', 'range', 'hstore') then
            value := format('pg_catalog.regexp_replace(%s, E''(["\\\\])'', E''\\\\\\1'', ''g'')', value);
            if not inside then
                value := format('coalesce(''"''::pg_catalog.text operator(pg_catalog.||) %s operator(pg_catalog.||) ''"''::pg_catalog.text, %L)',
                                value, case when t.kind in ('array', 'hstore') then 'NULL' else '' end);
            end if;
        elsif t.kind = 'tsearch' then
            value := format('pg_catalog.regexp_replace(%s, E''([''''\\\\])'', E''\\1\\1'', ''g'')', value);
            if not inside then
                value := format('''''''''::pg_catalog.text operator(pg_catalog.||) %s operator(pg_catalog.||) ''''''''::pg_catalog.text', value);
            end if;
        elsif t.kind = 'xml' then
            value := format('pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(%s,'
                            ' ''&'', ''&amp;''), ''<'', ''&lt;''), ''>'', ''&gt;''), ''"'', ''&quot;''), '''''''', ''&apos;'')', value);
        end if;
        texts := texts || format('(case when $1 operator(pg_catalog.?) %L then coalesce(%s, '''') else %L end)',
                                 piece #>> '{ref,0}', value, piece ->> 'src');
    end loop;
    return format(case when coalesce(type, 0) = 0 or type = 'text'::regtype then '(%1$s)' else '((%1$s)::%2$s)' end,
                  array_to_string(texts, ' operator(pg_catalog.||) '), t.name);
end
$$;
