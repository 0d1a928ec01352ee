-- What df.http and df.http_multipart have in common: the node, after a look at the request.
create or replace function df._http(node_type text, methods text[], config jsonb) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    url text := config ->> 'url';
begin
    if url is null or (url !~ '[{$]' and url !~* '^https?://') then
        raise exception using errcode = '22023', message = format('an HTTP request needs a URL, found %L', url),
            hint = 'It begins with http:// or https://.';
    elsif (config ->> 'method') <> all (methods) then
        raise exception using errcode = '22023', message = format('Invalid HTTP method: %s', config ->> 'method'),
            hint = format('Use %s.', array_to_string(methods, ', '));
    elsif (config ->> 'timeout_seconds')::int <= 0 then
        raise exception using errcode = '22023',
            message = format('an HTTP request has more than 0 seconds, found %s', config ->> 'timeout_seconds'),
            hint = 'timeout_seconds is 30 when it is left out.';
    end if;
    return jsonb_build_object('node_type', node_type, 'query', config::text)::text;
end
$$;
