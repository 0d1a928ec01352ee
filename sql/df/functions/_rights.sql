-- What df.grant_usage grants.
create or replace function df._rights(include_http boolean, with_grant boolean) returns text[]
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select array['select on df.instances', 'select on df.nodes', 'select, insert, update, delete on df.vars']
        || case when include_http then array['execute on function df.http', 'execute on function df.http_multipart']
           else '{}' end
        || case when with_grant then array['execute on function df.grant_usage', 'execute on function df.revoke_usage',
                                           'execute on function df.metrics'] else '{}' end
        || array['usage on schema df']
$$;
