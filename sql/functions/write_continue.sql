-- Lets an instance continue as new, in the commit of its history row `continued`: for apply_writes.
--
-- Replay begins at that row from now on, with the input it holds. Children that are to go with their parent are asked to cancel,
-- as at its end. A second time nothing changes.
-- Locks: the instance's row, which is the flush's.
create or replace function @extschema@.write_continue(target uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    place int := (select max(h.event_id) from @extschema@.history h
                   where h.instance_id = target and h.kind = 'continued');
    before int := (select i.first_event from @extschema@.instances i where i.id = target);
begin
    if place is null or before >= place then
        return;
    end if;
    update @extschema@.instances i set first_event = place where i.id = target;
    perform @extschema@.request_cancel(c.id, format('its parent %s continues as new', target))
       from @extschema@.instances c
      where c.parent = target and c.parent_close = 'cancel'
        and c.status not in ('completed', 'failed', 'cancelled', 'timed_out');
end
$$;
