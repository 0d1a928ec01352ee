-- A status with its sign.
create or replace function df._mark(status text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case status when 'completed' then '✓ Completed' when 'failed' then '✗ Failed' when 'cancelled' then '✗ Cancelled'
           when 'running' then '⏳ Running' when 'skipped' then '⊘ Skipped' else '○ Pending' end
$$;
