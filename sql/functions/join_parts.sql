-- A scanned statement as text again: with marks where values go (`probe`, for `infer_types`), or with the expressions over
-- $1, the environment, that take their places when they are of these types.
--
-- Arguments: parts of `scan_query`; a type per place (0: text); for row sources the environment and the guess.
-- Returns: null where a row source has no such guess.
create or replace function @extschema@.join_parts(parts jsonb, types oid[], probe boolean, env jsonb default null, guess int default 1)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    texts text[] := '{}';
    place int := 0;
    part jsonb;
    value text;
begin
    for part in select p from jsonb_array_elements(parts) as p loop
        if jsonb_typeof(part) = 'string' then
            value := part #>> '{}';
        elsif part ? 'rows' then
            value := @extschema@.rows_expression(part, env, guess);
            if value is null then
                return null;
            end if;
            if probe then
                -- There is no environment then.
                value := replace(value, '($1 operator', '(null::pg_catalog.jsonb operator');
            end if;
        else
            place := place + 1;
            if probe then
                value := E'\x01' || place || E'\x01';
                if part ->> 'type' is not null then
                    value := format('(%s::%s)', value, part ->> 'type');
                end if;
            elsif part ? 'ref' then
                value := @extschema@.ref_expression(part, types[place]);
            else
                value := @extschema@.lit_expression(part, types[place]);
                if part ->> 'type' is not null then
                    value := format('(%s::%s)', value, part ->> 'type');
                end if;
            end if;
        end if;
        texts := texts || value;
    end loop;
    return array_to_string(texts, '');
end
$$;
