-- Publishes a value, for apply_writes: `place` is the seq of the command that did so, and a later one stays;
-- of an instance that continues as new, one of a later run.
create or replace function @extschema@.write_state(id uuid, place int, body jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into @extschema@.states as s (instance_id, key, run, place, value)
    values (write_state.id, body ->> 'key', coalesce((body ->> 'run')::int, 0), write_state.place, body -> 'value')
    on conflict (instance_id, key) do update
       set run = excluded.run, place = excluded.place, value = excluded.value, set_at = excluded.set_at
     where s.run < excluded.run or (s.run = excluded.run and s.place < excluded.place);
end
$$;
