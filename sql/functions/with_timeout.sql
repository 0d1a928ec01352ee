-- Gives an instance that this very transaction has started a deadline: so long after it may run.
-- To be put around `start`: select @extschema@.with_timeout(@extschema@.start('report'), '1 hour').
--
-- `security definer`: whoever may execute it needs no right to the tables; it touches nothing that was there before.
-- Returns: the id it was given. An instance that was started earlier under the same id keeps what it has.
-- Raises: PGD02 no such instance; PGD05 the timeout is not positive.
create or replace function @extschema@.with_timeout(id text, timeout interval) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
begin
    if not coalesce(timeout > interval '0', false) then
        raise exception using errcode = 'PGD05',
            message = format('the timeout of instance %L is not positive: %s', id, timeout),
            hint = 'For example: interval ''1 hour''.';
    end if;
    update @extschema@.instances i
       set deadline = least(greatest(i.wake_at, now()) + timeout, timestamptz '9999-01-01 00:00:00+00')
     where i.id = target and i.created_at = now() and i.deadline is null and i.status = 'pending';
    return id;
end
$$;
