-- The text of a form of type multipart/form-data. Raises: 22023 for a part without a name, or with what is no base64;
-- 0A000 for one that is no text in UTF-8: a request is sent as text.
create or replace function df._form(boundary text, parts jsonb) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    part record;
    line constant text := e'\r\n';
    form text := '';
    data text;
begin
    for part in select * from jsonb_to_recordset(parts) as p (name text, filename text, content_type text, data_b64 text) loop
        if part.name is null or part.data_b64 is null then
            raise exception using errcode = '22023', message = 'a part of a form needs name and data_b64',
                hint = 'For example {"name": "file", "filename": "a.txt", "data_b64": "aGVsbG8="}.';
        end if;
        begin
            data := convert_from(decode(regexp_replace(part.data_b64, '\s', '', 'g'), 'base64'), 'UTF8');
        exception
            when invalid_parameter_value then
                raise exception using errcode = '22023', message = format('data_b64 of part %L is no base64', part.name),
                    hint = 'encode(data, ''base64'') makes it.';
            when character_not_in_repertoire or untranslatable_character then
                raise exception using errcode = '0A000', message = format('part %L is no text in UTF-8', part.name),
                    hint = 'Send what is binary from a step in Python.';
        end;
        form := form || '--' || boundary || line || 'Content-Disposition: form-data; name="'
            || df._quoted(part.name) || '"' || coalesce('; filename="' || df._quoted(part.filename) || '"', '') || line
            || coalesce('Content-Type: ' || regexp_replace(part.content_type, '[\r\n]', '', 'g') || line, '')
            || line || data || line;
    end loop;
    return form || '--' || boundary || '--' || line;
end
$$;
