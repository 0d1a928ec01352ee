-- The instance a user means: a user-chosen id first, else an instance's own uuid.
-- Returns: null when there is none.
create or replace function @extschema@.find_instance(id text) returns uuid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found_id uuid;
begin
    select k.instance_id into found_id from @extschema@.instance_keys k where k.id = find_instance.id;
    if found_id is null and find_instance.id ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
        select i.id into found_id from @extschema@.instances i where i.id = find_instance.id::uuid;
    end if;
    return found_id;
end
$$;
