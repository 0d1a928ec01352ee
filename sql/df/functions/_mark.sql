-- A status with its sign.
create or replace function df._mark(status text) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case s.status when 'cancelled' then df._sign('failed') else df._sign(s.status) end || ' ' || initcap(s.status)
      from (select case when _mark.status in ('completed', 'failed', 'cancelled', 'running', 'skipped')
                        then _mark.status else 'pending' end) as s (status)
$$;
