-- Whether the caller is a step of an instance: then a pump's functions are among those that called.
create or replace function df._in_workflow() returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    stack text;
begin
    get diagnostics stack = pg_context;
    return stack ~ 'PL/pgSQL function (\w+\.)?run_\w+\(';
end
$$;
