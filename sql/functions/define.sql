-- Registers a version of a workflow written in SQL. Stub: the body comes with the compiler.
create or replace function @extschema@.define(
    name text, definition jsonb, version text default null,
    deadline interval default null, queue text default null, concurrency int default null,
    retention interval default null, on_error jsonb default null, search_path text default null)
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using errcode = '0A000', message = 'define comes with the compiler', hint = 'Wait a moment.';
end
$$;
