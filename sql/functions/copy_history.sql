-- For fork: copies what an instance had come to before event `place` to a new instance. A table that comes later, and
-- holds something of an instance by place in its history, gets its lines here.
create or replace function @extschema@.copy_history(source uuid, copy uuid, place int) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into @extschema@.payloads (instance_id, hash, data)
    select copy, p.hash, p.data from @extschema@.payloads p where p.instance_id = source
    on conflict do nothing;
    insert into @extschema@.history
        (instance_id, recorded_at, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
    select copy, h.recorded_at, h.event_id, h.seq, h.fingerprint, h.elapsed_ms, h.attempt, h.kind, h.name, h.payload, h.error
      from @extschema@.history h
     where h.instance_id = source and h.event_id > 0 and h.event_id < place and h.kind not like 'undone %';
end
$$;
