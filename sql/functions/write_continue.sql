-- Lets an instance continue as new, in the commit of its history row `continued`, whose event_id is `place`: for
-- apply_writes.
--
-- Replay begins at that row from now on, with the input it holds. Children that are to go with their parent are asked to
-- cancel, as at its end. A second time nothing changes.
-- Locks: the instance's row, which is the flush's.
create or replace function @extschema@.write_continue(target uuid, place int) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update @extschema@.instances i set first_event = place where i.id = target and i.first_event < place;
    if found then
        perform @extschema@.request_cancel(c.id, format('its parent %s continues as new', target))
           from @extschema@.instances c
          where c.parent = target and c.parent_close = 'cancel'
            and c.status not in ('completed', 'failed', 'cancelled', 'timed_out');
    end if;
end
$$;
