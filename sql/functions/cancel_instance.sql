-- What cancel does, for one instance by uuid. Called by functions that have looked at who asks.
create or replace function @extschema@.cancel_instance(target uuid, reason text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
begin
    perform @extschema@.check_reason(reason);
    -- What has never run has nothing to clean up. A worker that claims it just now is waited for, and then has it.
    update @extschema@.instances i
       set status = 'cancelled', owner = null, wake_at = null, strikes = 0, finished_at = now(),
           error = @extschema@.end_error('Cancelled', 'it was cancelled before it began', reason)
     where i.id = target and i.owner is null and i.started_at is null and i.status in ('pending', 'paused');
    if found then
        return true;
    end if;
    select i.status into state from @extschema@.instances i where i.id = target;
    if not found or state in ('completed', 'failed', 'cancelled', 'timed_out') then
        -- That it ended may wait for a synchronous standby still: this waits too.
        perform pg_logical_emit_message(true, 'pgdurable', '');
        return false;
    end if;
    if not exists (select from @extschema@.events e where e.instance_id = target and e.kind = 'cancel')
       and not exists (select from @extschema@.history h where h.instance_id = target and h.kind = 'cancel') then
        insert into @extschema@.events (instance_id, kind, sent_by, payload)
        values (target, 'cancel', @extschema@.caller(), jsonb_build_object('reason', reason));
    end if;
    -- Somebody paused it: it goes on, to clean up. What stands still because it cannot go on stays so.
    update @extschema@.instances i
       set status = 'pending', owner = null, wake_at = now()
     where i.id = target and i.status = 'paused' and i.error is null;
    perform pg_notify(@extschema@.channel(), 'event');
    return true;
end
$$;
