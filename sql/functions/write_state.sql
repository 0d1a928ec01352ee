-- Publishes a value, for apply_writes: `place` is the seq of the command that did so, and a later one stays.
create or replace function @extschema@.write_state(id uuid, place int, body jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into @extschema@.states as s (instance_id, key, place, value)
    values (write_state.id, body ->> 'key', write_state.place, body -> 'value')
    on conflict (instance_id, key) do update
       set place = excluded.place, value = excluded.value, set_at = excluded.set_at
     where s.place < excluded.place;
end
$$;
