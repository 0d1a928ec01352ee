-- Pauses a schedule: it starts nothing until it is resumed, except what is triggered. What runs goes on. The ticks
-- meanwhile are nobody's: they are not made good later.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Returns: whether it was going.
-- Raises: PGD10 no such schedule.
create or replace function @extschema@.pause_schedule(name text, note text default null) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target text := @extschema@.need_schedule(name);
begin
    update @extschema@.schedules s
       set paused = true, note = pause_schedule.note, tick_at = null, revision = s.revision + 1,
           next_at = case when s.requests @> '[{}]' then now() end
     where s.name = target and not s.paused;
    return found;
end
$$;
