-- As find_instance, but raises PGD02 when there is none, or none that the caller may know of.
create or replace function @extschema@.need_instance(id text) returns uuid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id uuid := @extschema@.find_instance(id);
begin
    if found_id is null
       or (select @extschema@.hidden(i.submitted_by) from @extschema@.instances i where i.id = found_id) then
        raise exception using
            errcode = 'PGD02',
            message = format('no instance has the id %L', id),
            hint = 'Ids are those given to start(id => ...), or the uuid that start returned; select id from @extschema@.instances lists them.';
    end if;
    return found_id;
end
$$;
