-- Ends tasks whose holder is gone and that may not be tried again, with the error StepInterrupted: those at these places
-- (ctid), which the caller has locked. Called by give_up_leases and free_tasks.
-- Returns: how many.
create or replace function @extschema@.tasks_lost(places tid[]) returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    n int;
begin
    with ended as (
        delete from @extschema@.tasks t where t.ctid = any (places)
        returning t.instance_id, t.seq, t.attempt, t.name, t.kind, t.holder, t.request
    )
    insert into @extschema@.events (instance_id, kind, name, payload)
    select e.instance_id, 'task', e.name, jsonb_build_object('seq', e.seq, 'attempt', e.attempt, 'error', jsonb_build_object(
               'type', 'pgdurable.errors.StepInterrupted', 'retryable', false,
               'message', format('step %s was under way (attempt %s%s) when its %s was lost; %s', e.name, e.attempt,
                   ' at ' || e.holder, case when e.kind = 'external' then 'lease' else 'worker' end,
                   case when e.request @> '{"at_most_once": true}' then 'as at_most_once it is not repeated'
                        else 'that was its last attempt' end)))
      from ended e
     order by e.instance_id, e.seq;
    get diagnostics n = row_count;
    if n > 0 then
        perform pg_notify(@extschema@.channel(), 'event');
    end if;
    return n;
end
$$;
