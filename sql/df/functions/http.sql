-- An HTTP request, made by a Python worker. $name in the URL, the body and the headers is replaced.
--
-- Its result is {"status", "ok", "headers", "body", "encoding", "duration_ms"}. Raises: 22023 for what is no request.
create or replace function df.http(
    url text, method text default 'POST', body text default null, headers jsonb default null,
    timeout_seconds int default 30)
returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select df._http('HTTP', '{GET,POST,PUT,DELETE,PATCH}',
        jsonb_build_object('url', url, 'method', upper(method), 'body', body, 'headers', headers,
                           'timeout_seconds', timeout_seconds))
$$;
