-- Gives a worker turns of a step whose rate is limited: never more than `most` within any `span` seconds.
--
-- Locks: the step's turns, by an advisory lock on its name, until the transaction ends.
-- Arguments: `span` holds what the caller adds to the step's own, see the worker; `wanted` turns at most are given.
-- Returns: how many are given; and in how many seconds there may be more, null when there are more now.
create or replace function @extschema@.take_turns(step text, most int, span float8, wanted int)
returns table (given int, wait float8)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    at timestamptz;
    used bigint;
    next_at timestamptz;
begin
    perform pg_advisory_xact_lock(@extschema@.lock_class(3), hashtext('turns:' || step));
    -- Not before the lock is held: the turns would be free again too early.
    at := clock_timestamp();
    delete from @extschema@.step_turns t where t.step = take_turns.step and t.free_at <= at;
    select coalesce(sum(t.taken), 0), min(t.free_at) into used, next_at
      from @extschema@.step_turns t
     where t.step = take_turns.step and t.free_at > at;
    given := greatest(least(wanted, most - used), 0);
    if given > 0 then
        insert into @extschema@.step_turns (step, free_at, taken)
        values (take_turns.step, at + make_interval(secs => span), given);
    end if;
    if used + given >= most then
        wait := extract(epoch from coalesce(next_at, at + make_interval(secs => span)) - at);
    end if;
    return next;
end
$$;
