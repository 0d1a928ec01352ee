-- Asks an instance to cancel: what has not begun is cancelled at once; what runs or waits finds the request among its
-- events, and its code meets a CancelledError where it waits. What has ended stays as it is.
--
-- Locks: the row of an instance that has not begun.
-- Returns: whether the instance was there and had not ended.
create or replace function @extschema@.request_cancel(target uuid, reason text default null) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update @extschema@.instances i
       set status = 'cancelled', finished_at = now(), owner = null, wake_at = null,
           error = jsonb_build_object('type', 'pgdurable.errors.PgDurableError',
                                      'message', 'it was cancelled before it began' || coalesce(': ' || reason, ''))
     where i.id = target and i.status = 'pending' and i.owner is null and i.started_at is null;
    if found then
        return true;
    end if;
    insert into @extschema@.events (instance_id, kind, sent_by, payload)
    select i.id, 'cancel', @extschema@.caller(), jsonb_build_object('reason', reason)
      from @extschema@.instances i
     where i.id = target and i.status not in ('completed', 'failed', 'cancelled', 'timed_out')
       and not exists (select from @extschema@.events e where e.instance_id = target and e.kind = 'cancel');
    if not found then
        return exists (select from @extschema@.events e where e.instance_id = target and e.kind = 'cancel');
    end if;
    perform pg_notify(@extschema@.channel(), 'event');
    return true;
end
$$;
