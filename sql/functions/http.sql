-- A node that makes an HTTP request, which a worker of pgdurable carries out; "$refs" stand in url, headers and body.
-- `ok`: the statuses that are no failure (default 200 to 299). Its result: status, headers, body, ...
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.http(
    url text, method text default 'GET', headers jsonb default null, body jsonb default null, ok jsonb default null,
    max_bytes bigint default null, "into" text default null, name text default null,
    retry jsonb default null, timeout interval default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'http', 'url', url, 'method', method, 'headers', headers, 'body', body, 'ok', ok, 'max_bytes', max_bytes,
        'into', "into", 'name', name, 'retry', retry, 'timeout', extract(epoch from timeout)::float8))
$$;
