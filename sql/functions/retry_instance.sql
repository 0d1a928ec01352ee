-- What retry does, for one instance by uuid. Called by functions that have looked at who asks.
--
-- Which step made it fail only its code can tell. So a row of the kind `retry` is put at the end of its history, and the
-- worker that takes the instance up replays it, finds the step, and has the rows marked (see undo).
create or replace function @extschema@.retry_instance(target uuid) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update @extschema@.instances i
       set status = 'pending', owner = null, error = null, output = null, strikes = 0, finished_at = null, hold = null,
           wake_at = now(), started_at = coalesce(i.started_at, i.created_at),
           deadline = case when i.deadline < now() then now() + (i.deadline - i.created_at) else i.deadline end
     where i.id = target and i.status in ('failed', 'timed_out');
    if not found then
        return @extschema@.resume_instance(target);
    end if;
    -- Requests that came too late for its first end are not meant for the second.
    delete from @extschema@.events e
     where e.instance_id = target and e.kind in ('cancel', 'terminate', 'pause');
    insert into @extschema@.history (instance_id, event_id, kind, payload)
    select target, coalesce(max(h.event_id), 0) + 1, 'retry', jsonb_build_object('by', @extschema@.caller())
      from @extschema@.history h where h.instance_id = target;
    perform pg_notify(@extschema@.channel(), 'due');
    return true;
end
$$;
