-- A step that runs a statement. Its result is {"rows": [...], "row_count": n}.
create or replace function df.sql(query text) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('node_type', 'SQL', 'query', query)::text
$$;
