-- What pause does, for one instance by uuid. Called by functions that have looked at who asks.
create or replace function @extschema@.pause_instance(target uuid) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    seen record;
begin
    loop
        -- As in terminate_instance. `wake_at` stays: a delayed start is still one when it is resumed.
        update @extschema@.instances i
           set status = 'paused', owner = null, error = null
         where i.id = target
           and i.status in ('pending', 'running', 'waiting')
           and (i.owner is null or i.owner < 0
                or exists (select from @extschema@.workers w where w.id = i.owner and w.state in ('dead', 'stopped')));
        if found then
            return true;
        end if;
        select i.status, i.owner into seen from @extschema@.instances i where i.id = target;
        if not found or seen.status in ('completed', 'failed', 'cancelled', 'timed_out', 'paused') then
            perform pg_logical_emit_message(true, 'pgdurable', '');
            return false;
        end if;
        exit when seen.owner > 0
              and not exists (select from @extschema@.workers w
                               where w.id = seen.owner and w.state in ('dead', 'stopped'));
    end loop;
    if not exists (select from @extschema@.events e where e.instance_id = target and e.kind = 'pause') then
        insert into @extschema@.events (instance_id, kind, sent_by, payload)
        values (target, 'pause', @extschema@.caller(), 'null');
    end if;
    perform pg_notify(@extschema@.channel(), 'event');
    return true;
end
$$;
