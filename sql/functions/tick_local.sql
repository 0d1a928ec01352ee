-- A tick as the workflow and its labels are told it: ISO 8601, on the clock of a time zone, with its offset.
create or replace function @extschema@.tick_local(tick timestamptz, tz text) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select to_char(tick at time zone tz, case when extract(microseconds from tick)::bigint % 1000000 = 0
                                              then 'YYYY-MM-DD"T"HH24:MI:SS' else 'YYYY-MM-DD"T"HH24:MI:SS.US' end)
        || case when o.seconds < 0 then '-' else '+' end
        || to_char(make_interval(secs => abs(o.seconds)), 'HH24:MI')
      from (select extract(epoch from (tick at time zone tz) - (tick at time zone 'UTC'))::int as seconds) o
$$;
