-- Removes a schedule. The instances it started go on, and stay.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Returns: whether there was one.
create or replace function @extschema@.drop_schedule(name text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from @extschema@.schedules s
     where s.name = drop_schedule.name and not @extschema@.hidden(s.submitted_by);
    return found;
end
$$;
