-- Says everything that is wrong with a definition, with a path to it and what to do. No rows: `define` takes it.
--
-- Example: select * from @extschema@.validate('["select 1", {"op": "if", "when": "select true"}]').
-- What only shows when it runs (a table that is not there yet) is no problem here.
create or replace function @extschema@.validate(definition jsonb)
returns table (path text, problem text, hint text)
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select c.path, c.problem, c.hint from @extschema@.check_definition(definition) as c
$$;
