-- Lets a worker's transaction go on only while the worker holds its lease.
--
-- Locks, in order: the worker's fence, shared, until the end of the transaction. A takeover takes the same
-- lock exclusively, so a takeover and a commit of the worker exclude each other; the row is read after the
-- lock is held (a volatile function sees a fresh snapshot per statement), so the later one sees the earlier.
-- Returns: the transaction's time, which is also the recorded_at of all rows it writes.
-- Raises: PGD01 when the worker was taken over or has stopped; 40001 (try again) when the transaction is
-- repeatable read or serializable and the worker was taken over after its snapshot.
create or replace function @extschema@.fence(worker bigint) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_advisory_xact_lock_shared(@extschema@.lock_class(0), worker::int);
    if current_setting('transaction_isolation') in ('read committed', 'read uncommitted') then
        perform from @extschema@.fences f where f.worker = fence.worker;
    else
        -- A user's transaction step may keep one snapshot for all its statements, which would go on showing the
        -- row as it was before a takeover. This row lock fails where the row has gone since.
        perform from @extschema@.fences f where f.worker = fence.worker for key share;
    end if;
    if not found then
        raise exception using
            errcode = 'PGD01',
            message = format('worker %s no longer holds its lease', worker),
            hint = 'Another worker took its instances over; rejoin under a new incarnation.';
    end if;
    return now();
end
$$;
