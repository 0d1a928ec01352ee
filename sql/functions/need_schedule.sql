-- Locks a schedule's row for the caller's change, until it commits.
-- `security definer`, for functions that are.
-- Returns: its name.
-- Raises: PGD10 there is none, or none that the caller may know of.
create or replace function @extschema@.need_schedule(name text) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    whose text;
begin
    select s.submitted_by into whose from @extschema@.schedules s where s.name = need_schedule.name for update;
    if whose is null or @extschema@.hidden(whose) then
        raise exception using errcode = 'PGD10', message = format('there is no schedule %L', name),
            hint = 'select name from @extschema@.schedules lists those there are.';
    end if;
    return name;
end
$$;
