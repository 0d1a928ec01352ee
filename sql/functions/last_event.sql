-- The place in the event queue that was given out last; some before it may not be committed yet. With the rights of the
-- tables' owner, since a sequence is not covered by what workers are granted.
create or replace function @extschema@.last_event() returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select s.last_value from @extschema@.events_seq_seq s
$$;
