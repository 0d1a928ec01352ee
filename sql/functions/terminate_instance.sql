-- What terminate does, for one instance by uuid. Called by functions that have looked at who asks.
create or replace function @extschema@.terminate_instance(target uuid, reason text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    seen record;
begin
    perform @extschema@.check_reason(reason);
    loop
        -- Only a worker known to have ended counts as none: to a statement that waited for a claim, a worker that has
        -- joined meanwhile would look like one that is gone.
        update @extschema@.instances i
           set status = 'cancelled', owner = null, wake_at = null, strikes = 0, finished_at = now(),
               started_at = coalesce(i.started_at, i.created_at),
               error = @extschema@.end_error('Terminated', 'it was terminated', reason)
         where i.id = target
           and i.status not in ('completed', 'failed', 'cancelled', 'timed_out')
           and (i.owner is null or i.owner < 0
                or exists (select from @extschema@.workers w where w.id = i.owner and w.state in ('dead', 'stopped')));
        if found then
            return true;
        end if;
        select i.status, i.owner into seen from @extschema@.instances i where i.id = target;
        if not found or seen.status in ('completed', 'failed', 'cancelled', 'timed_out') then
            perform pg_logical_emit_message(true, 'pgdurable', '');
            return false;
        end if;
        -- Else its worker has let go of it between the two statements.
        exit when seen.owner > 0
              and not exists (select from @extschema@.workers w
                               where w.id = seen.owner and w.state in ('dead', 'stopped'));
    end loop;
    if not exists (select from @extschema@.events e where e.instance_id = target and e.kind = 'terminate') then
        insert into @extschema@.events (instance_id, kind, sent_by, payload)
        values (target, 'terminate', @extschema@.caller(), jsonb_build_object('reason', reason));
    end if;
    perform pg_notify(@extschema@.channel(), 'event');
    return true;
end
$$;
