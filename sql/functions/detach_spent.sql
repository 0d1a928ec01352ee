-- Detaches the partitions that can be dropped, for workers that do not own the tables: only the owner may detach, and not
-- concurrently within a function. So this locks everybody out of `history` for the moment it takes, and gives up where it
-- would have to wait for longer than 20 ms, in which others would wait behind it.
--
-- Locks: `history` exclusively. Returns: how many; null when it gave up, or another session sweeps.
create or replace function @extschema@.detach_spent() returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '20ms'
as $$
declare
    spent record;
    detached int := 0;
begin
    if not pg_try_advisory_xact_lock(@extschema@.lock_class(3), 1) then
        return null;
    end if;
    for spent in select s.name from @extschema@.spent_partitions() s where s.finalize is null loop
        execute format('alter table @extschema@.history detach partition @extschema@.%I', spent.name);
        detached := detached + 1;
    end loop;
    return detached;
exception when lock_not_available then
    return null;
end
$$;
