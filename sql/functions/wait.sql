-- Waits for the end of an instance, and gives its status then; or what it is when the time is over.
--
-- It looks by key, ever more seldom, up to twice a second. It sees what others commit meanwhile, so the transaction has to
-- be read committed. A caller that keeps locks the instance needs waits in vain. While it waits the caller's snapshot keeps
-- dead rows of the whole database from being removed: for minutes or more use `call wait_for_end(...)`, outside a transaction.
-- Arguments: `timeout` null: for ever.
-- Returns: completed, failed, cancelled or timed_out; else it has not ended.
-- Raises: PGD02 no such instance; PGD05 this transaction would never see the end.
create or replace function @extschema@.wait(id text, timeout interval default '1 minute') returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
    until timestamptz := clock_timestamp() + timeout;
    pause float8 := 0.002;
    state text;
    mine boolean;
    own numeric := coalesce(pg_current_xact_id_if_assigned()::text::numeric, 0);
begin
    loop
        select i.status,
               -- What is visible and not committed is this transaction's own, or one of its savepoints'.
               case when i.created_at = now() then coalesce(pg_xact_status((own + mod(
                   mod(i.xmin::text::numeric - own, 4294967296) + 6442450944, 4294967296) - 2147483648
                   )::text::xid8) = 'in progress', false) else false end
          into state, mine
          from @extschema@.instances i where i.id = target;
        exit when state is null or state in ('completed', 'failed', 'cancelled', 'timed_out') or clock_timestamp() >= until;
        if mine or current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
            raise exception using errcode = 'PGD05',
                message = format('this transaction would wait for the end of instance %L in vain', id),
                detail = case when mine then 'It has started the instance, and not committed yet.'
                    else format('It is %s, and sees nothing of what others commit.', current_setting('transaction_isolation')) end,
                hint = 'Commit first, and wait in a read committed transaction.';
        end if;
        perform pg_sleep(least(pause, greatest(extract(epoch from until - clock_timestamp()), 0)));
        pause := least(pause * 1.3, 0.5);
    end loop;
    return state;
end
$$;
