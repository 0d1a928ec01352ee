-- Lets a paused schedule go on, with its ticks from now on, and with the ones that waited when it was paused.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Returns: whether it was paused.
-- Raises: PGD10 no such schedule.
create or replace function @extschema@.resume_schedule(name text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target text := @extschema@.need_schedule(name);
begin
    update @extschema@.schedules s
       set paused = false, note = null, since = now(), tick_at = null, next_at = now(), revision = s.revision + 1,
           running = array(select i.id from @extschema@.instances i
                            where i.id = any (s.running)
                              and i.status not in ('completed', 'failed', 'cancelled', 'timed_out'))
     where s.name = target and s.paused;
    if not found then
        return false;
    end if;
    perform pg_notify(@extschema@.channel(), 'due');
    return true;
end
$$;
