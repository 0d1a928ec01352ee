-- The state of an instance that is taken up: as it was saved; after retry, as it was when it failed. What it did since then
-- is marked as undone in history, and what others had under way for it is asked for anew.
create or replace function @extschema@.run_again(worker bigint, target uuid, state jsonb) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
    child record;
begin
    if not state ? 'ended' then
        return state;
    end if;
    state := state -> 'failed';
    if state ? 'event' then
        perform @extschema@.undo(worker, target, array(
            select h.event_id from @extschema@.history h
             where h.instance_id = target and h.event_id >= (state ->> 'event')::int and h.kind <> 'retry'));
    end if;
    for one in select t.key, t.value from jsonb_each(state -> 'threads') t where t.value ? 'wait' loop
        if one.value #>> '{wait,k}' in ('task', 'outside') and one.value #> '{wait,got}' is null then
            state := state #- array['threads', one.key, 'wait'];
        elsif one.value #>> '{wait,k}' = 'child' then
            select c.id, c.status, c.output, c.error into child
              from @extschema@.instances c
             where c.parent = target and c.parent_seq = (one.value #>> '{wait,seq}')::int order by c.id desc limit 1;
            if child.status in ('completed', 'failed', 'cancelled', 'timed_out') then
                state := jsonb_set(state, array['threads', one.key, 'wait', 'got'], jsonb_build_object(
                    'what', 'child', 'id', child.id, 'status', child.status,
                    'output', @extschema@.whole(child.id, child.output), 'error', child.error));
            end if;
        end if;
    end loop;
    return state - 'event';
end
$$;
