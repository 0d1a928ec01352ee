-- Detaches one partition that can be dropped, for workers that do not own the tables: only the owner may detach, and not
-- concurrently within a function. So this locks everybody out of `history` for the moment it takes, and gives up where it
-- would have to wait for longer than 20 ms, in which others would wait behind it.
--
-- Locks: `history` exclusively. Returns: its name; null when there is none or it gave up.
create or replace function @extschema@.detach_spent() returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '20ms'
as $$
declare
    spent record;
begin
    select s.name, s.detach_locking into spent from @extschema@.spent_partitions() s
     where s.finalize is null limit 1;
    if found and pg_try_advisory_xact_lock(@extschema@.lock_class(3), 1) then
        execute spent.detach_locking;
        return spent.name;
    end if;
    return null;
exception when lock_not_available then
    return null;
end
$$;
