-- Changes some things of a schedule and leaves the others: `changes` has keys of its definition, null for the default.
-- One of cron, every_s and at takes the place of the others. Its ticks from now on are the new ones.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Returns: whether anything changed.
-- Raises: PGD10 no such schedule; PGD05 as put_schedule.
create or replace function @extschema@.edit_schedule(name text, changes jsonb, input jsonb default null)
returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target text := @extschema@.need_schedule(name);
    old @extschema@.schedules;
    base jsonb;
begin
    select s.* into strict old from @extschema@.schedules s where s.name = target;
    base := old.definition;
    if changes ?| array['cron', 'every_s', 'at'] then
        base := base - array['cron', 'every_s', 'anchor', 'at'];
        if not changes ? 'cron' then
            base := base - 'tz';
        elsif not base ? 'tz' then
            base := base || '{"tz": "UTC"}';
        end if;
    end if;
    return @extschema@.put_schedule(target, old.workflow, edit_schedule.input, base || changes, false);
end
$$;
