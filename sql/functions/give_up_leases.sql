-- External steps whose lease has run out and that may not be tried again end with the error StepInterrupted:
-- `at_most_once` ones at the first time, others after the last attempt of their policy (`max_attempts` of the request).
-- Locks: the rows, skipping those that somebody holds.
-- Returns: how many.
create or replace function @extschema@.give_up_leases() returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    at timestamptz := clock_timestamp();
    places tid[];
begin
    with lost as materialized (
        select t.ctid as place
          from @extschema@.tasks t
         where t.kind = 'external' and t.lease_until <= at
           and (t.request @> '{"at_most_once": true}' or t.attempt >= (t.request ->> 'max_attempts')::int)
         order by t.lease_until
         limit 1000
           for update of t skip locked
    )
    select array_agg(l.place) into places from lost l;
    return case when places is null then 0 else @extschema@.tasks_lost(places) end;
end
$$;
