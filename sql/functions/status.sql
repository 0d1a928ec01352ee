-- The status of an instance: pending running waiting paused completed failed cancelled timed_out.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.status(id text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);  -- in the query itself, an empty table would never call it
begin
    return (select i.status from @extschema@.instances i where i.id = target);
end
$$;
