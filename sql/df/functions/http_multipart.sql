-- An HTTP request with a body of type multipart/form-data, made by a Python worker.
--
-- `parts` is an array of objects with `name` and `data_b64`, and perhaps `filename` and `content_type`. A $name in data_b64 is
-- the whole of it. The result is as that of df.http. Raises: 22023 for what is no request.
create or replace function df.http_multipart(
    url text, method text default 'POST', parts jsonb default null, headers jsonb default null,
    timeout_seconds int default 30)
returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(parts) is distinct from 'array' or jsonb_array_length(parts) = 0 then
        raise exception using errcode = '22023', message = 'df.http_multipart needs parts: a JSON array of at least one',
            hint = 'For example ''[{"name": "file", "filename": "a.txt", "data_b64": "aGVsbG8="}]''.';
    end if;
    return df._http('HTTP_MULTIPART', '{POST,PUT,PATCH}',
        jsonb_build_object('url', url, 'method', upper(method), 'parts', parts, 'headers', headers,
                           'timeout_seconds', timeout_seconds));
end
$$;
