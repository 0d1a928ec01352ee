-- a |=> name of a definition: its result becomes a variable.
create or replace function df._j_as(a jsonb, name text) returns jsonb
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case jsonb_typeof(a) when 'object' then a when 'string' then jsonb_build_object('op', 'sql', 'query', a)
           else jsonb_build_object('op', 'seq', 'steps', a) end || jsonb_build_object('into', name)
$$;
