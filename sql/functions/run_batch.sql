-- Runs instances of workflows in SQL, one after the other, inside the caller's transaction: until all have ended or wait, or
-- `until`, or `most` steps.
--
-- Arguments: `ids`: instances that `worker` has claimed; `careful`, `slow`, `usual`: as run_instance.
-- Locks: the fence of `worker`, shared, until the caller commits; what the steps lock.
-- Returns: `left_ids`: those that are still the worker's, in the order in which to go on; `steps`; `slow`, with what was found;
-- `outcome`: null, or why it ended early: alone, conflict or stop.
-- Raises: PGD01 the worker was taken over.
create or replace function @extschema@.run_batch(
    worker bigint, ids uuid[], until timestamptz, most bigint, careful boolean, inout slow jsonb, usual jsonb,
    out left_ids uuid[], out steps bigint, out outcome text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one uuid;
    n int := 0;
    did record;
    later uuid[] := '{}';
begin
    perform @extschema@.fence(worker);
    steps := 0;
    foreach one in array ids loop
        n := n + 1;
        did := @extschema@.run_instance(worker, one, until, most - steps, n = 1, careful, slow, usual);
        steps := steps + did.steps;
        -- How often it was so, up to ten times, less how often it was not: a hiccup of the machine is forgotten at once.
        if left(did.found_slow, 1) = '-' then
            did.found_slow := substr(did.found_slow, 2);
            slow := case when (slow ->> did.found_slow)::int > 1
                then slow || jsonb_build_object(did.found_slow, (slow ->> did.found_slow)::int - 1) else slow - did.found_slow end;
        elsif did.found_slow is not null then
            slow := slow || jsonb_build_object(did.found_slow, least(coalesce((slow ->> did.found_slow)::int, 0) + 1, 10));
        end if;
        if did.outcome in ('alone', 'stop') then
            left_ids := one || ids[n + 1:] || later;
            outcome := did.outcome;
            return;
        elsif did.outcome <> 'over' then
            later := later || one;
            outcome := nullif(did.outcome, 'more');
        end if;
        exit when outcome is not null or careful or clock_timestamp() >= until or steps >= most;
    end loop;
    left_ids := ids[n + 1:] || later;
end
$$;
