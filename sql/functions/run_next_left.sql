-- Of an instance on its way to its end: the next of what is left to run becomes its one thread; with nothing left, it has
-- no thread any more.
create or replace function @extschema@.run_next_left(state jsonb) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select (state - 'joins') || case when jsonb_array_length(state -> 'left') = 0
        then jsonb_build_object('threads', '{}'::jsonb)
        else jsonb_build_object('threads', jsonb_build_object('0', state #> '{left,0}'), 'left', (state -> 'left') - 0) end
$$;
