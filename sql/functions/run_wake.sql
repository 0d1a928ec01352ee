-- Takes in what has come for an instance that is taken up: its events, and the time.
--
-- Signals go to its inbox; ends of tasks and children to the threads that wait for them; a cancellation, a deadline that has
-- passed, and the timeout of a node around a waiting one change its way. Requests to pause or terminate are left to heed:
-- then the state has `asked`. Locks: the events, which are deleted.
create or replace function @extschema@.run_wake(target uuid, state jsonb, usual jsonb, handler int, deadline timestamptz)
returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    event record;
    thread text;
    cancel jsonb;
    error jsonb;
    late record;
    at float8 := extract(epoch from clock_timestamp());
begin
    for event in
        with gone as (
            delete from @extschema@.events e
             where e.seq = any (array(select s.seq from @extschema@.events s
                                       where s.instance_id = target and s.kind not in ('pause', 'terminate')))
            returning e.seq, e.kind, e.name, e.sent_by, case when e.payload ? '$pgdurable:aside'
                then @extschema@.whole(target, e.payload) else e.payload end as payload)
        select g.* from gone g order by g.seq
    loop
        case event.kind
        when 'signal' then
            state := state || jsonb_build_object('inbox', coalesce(state -> 'inbox', '[]')
                || jsonb_build_array(jsonb_build_object('name', event.name, 'payload', event.payload)));
        when 'task', 'child' then
            select t.key into thread from jsonb_each(state -> 'threads') t
             where t.value #>> '{wait,seq}' = event.payload ->> 'seq'
               and t.value #>> '{wait,k}' = any (case event.kind when 'task' then array['task', 'outside'] else array['child'] end);
            if found then
                state := jsonb_set(state, array['threads', thread, 'wait', 'got'],
                                   jsonb_build_object('what', event.kind, 'n', event.seq) || event.payload);
            end if;
        when 'cancel' then
            cancel := jsonb_build_object('reason', event.payload -> 'reason', 'by', event.sent_by);
        else
            null;  -- of a kind that is not for it
        end case;
    end loop;
    if exists (select from @extschema@.events e where e.instance_id = target and e.kind in ('pause', 'terminate')) then
        state := state || '{"asked": true}';
    end if;
    if cancel is not null and not state ? 'ending' then
        insert into @extschema@.history (instance_id, event_id, kind, payload)
        select target, coalesce(max(h.event_id), 0) + 1, 'cancel', cancel from @extschema@.history h where h.instance_id = target;
        state := @extschema@.run_next_left(@extschema@.run_ending(state, 'cancelled', jsonb_build_object(
            'type', 'pgdurable.errors.Cancelled', 'message', 'it was cancelled' || coalesce(': ' || (cancel ->> 'reason'), ''))
            || cancel, null));
    elsif deadline <= clock_timestamp() and not state ? 'ending' then
        state := @extschema@.run_next_left(@extschema@.run_ending(state, 'timed_out', jsonb_build_object(
            'type', 'pgdurable.errors.WorkflowTimeout', 'sqlstate', '57014',
            'message', format('it ran over its deadline, %s', deadline)), handler) || jsonb_build_object('failed', state));
    else
        loop
            -- The outermost first: it takes along those within.
            select t.key, f.n::int - 1 as frame, f.value ->> 'name' as name into late
              from jsonb_each(state -> 'threads') t
             cross join jsonb_array_elements(coalesce(t.value -> 'fr', '[]')) with ordinality as f (value, n)
             where f.value ->> 'k' = 'limit' and (f.value ->> 'at')::float8 <= at
             order by t.key::int, f.n limit 1;
            exit when not found;
            error := jsonb_build_object(
                'type', 'pgdurable.errors.StepTimeout', 'sqlstate', '57014', 'step', late.name,
                'message', format('node %s ran over its timeout', late.name));
            cancel := state;
            state := @extschema@.run_fail(state, late.key, error, usual, handler, late.frame);
            if state ? 'ending' and not cancel ? 'ending' then
                state := state || jsonb_build_object('failed', cancel);
            end if;
        end loop;
    end if;
    return coalesce(@extschema@.run_ready(state), state);
end
$$;
