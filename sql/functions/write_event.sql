-- Puts an event into the queue of an instance, once: for apply_writes.
--
-- Arguments: `body` has `key` (a uuid that only this event has), `kind`, `name` and `payload`.
-- `security definer`: keys are nobody's to read or write. Only workers may execute it.
-- An instance that has ended, or does not exist, gets none.
-- Locks: the key's index entry until the flush commits.
create or replace function @extschema@.write_event(id uuid, body jsonb) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into @extschema@.signal_keys (key) values ((body ->> 'key')::uuid) on conflict do nothing;
    if not found then
        return;
    end if;
    insert into @extschema@.events (instance_id, kind, name, sent_by, payload)
    select i.id, body ->> 'kind', body ->> 'name', @extschema@.caller(), coalesce(body -> 'payload', 'null')
      from @extschema@.instances i
     where i.id = write_event.id and i.status not in ('completed', 'failed', 'cancelled', 'timed_out');
    if found then
        perform pg_notify(@extschema@.channel(), 'event');
    end if;
end
$$;
