-- What resume does, for one instance by uuid. Called by functions that have looked at who asks.
--
-- Its worker pauses it by deleting the request (see heed), so of the two only one finds it there.
create or replace function @extschema@.resume_instance(target uuid) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    loop
        update @extschema@.instances i
           set status = 'pending', owner = null, error = null, strikes = 0,
               -- What was paused before it began may be a start that is due later.
               wake_at = case when i.started_at is null then greatest(i.wake_at, now()) else now() end
         where i.id = target and i.status = 'paused';
        if found then
            delete from @extschema@.events e where e.instance_id = target and e.kind = 'pause';
            perform pg_notify(@extschema@.channel(), 'due');
            return true;
        end if;
        delete from @extschema@.events e where e.instance_id = target and e.kind = 'pause';
        if found then
            perform pg_notify(@extschema@.channel(), 'event');
            return true;
        end if;
        perform from @extschema@.instances i where i.id = target and i.status = 'paused';
        exit when not found;
    end loop;
    -- It may have been resumed a moment ago, in a commit that waits for a synchronous standby still: this waits too.
    perform pg_logical_emit_message(true, 'pgdurable', '');
    return false;
end
$$;
