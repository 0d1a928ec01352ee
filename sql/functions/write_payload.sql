-- Keeps a large payload beside the row that was written in the same flush, once: for apply_writes.
-- Arguments: `body` has `hash` and `data`.
create or replace function @extschema@.write_payload(id uuid, body jsonb) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into @extschema@.payloads (instance_id, hash, data) values (id, body ->> 'hash', body -> 'data')
    on conflict (instance_id, hash) do update set written_at = now()
$$;
