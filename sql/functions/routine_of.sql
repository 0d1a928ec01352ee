-- The function or procedure of a name, with or without the types of its parameters, as found under a search_path; null: none,
-- or several.
create or replace function @extschema@.routine_of(name text, path text) returns oid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    has_types boolean := strpos(name, '(') > 0;
begin
    -- From here on no name is resolved but in full. The path ends with this function.
    perform set_config('search_path', path, true);
    return case when has_types then pg_catalog.to_regprocedure(name)::pg_catalog.oid
                else pg_catalog.to_regproc(name)::pg_catalog.oid end;
end
$$;
