-- Notes what became of an update, for apply_writes: `body` has `key`, `status`, and `result` or `error`; of a rejected
-- one also `event`, its place in the event queue, which it leaves without ever being in history.
-- A reply stays as it is.
create or replace function @extschema@.write_update(id uuid, body jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update @extschema@.updates u
       set status = body ->> 'status', result = body -> 'result', error = body -> 'error',
           answered_at = case when body ->> 'status' <> 'accepted' then now() end
     where u.instance_id = write_update.id and u.key = (body ->> 'key')::uuid
       and (u.status = 'requested' or (u.status = 'accepted' and body ->> 'status' <> 'accepted'));
    if body ? 'event' then
        delete from @extschema@.events e where e.seq = (body ->> 'event')::bigint;
    end if;
end
$$;
