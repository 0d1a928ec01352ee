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
    -- What each key held there: what was published last before that place.
    insert into @extschema@.states (instance_id, key, run, place, value, set_at)
    select distinct on (h.name) copy, h.name, 0, h.seq, @extschema@.whole(source, h.payload), h.recorded_at
      from @extschema@.history h
     where h.instance_id = source and h.event_id < place and h.kind = 'state'
     order by h.name, h.event_id desc;
    -- Items of writers whose rows are copied. One that was under way there writes its items anew.
    insert into @extschema@.stream_items
        (instance_id, position, run, writer, n, attempt, written_at, stream, kind, item)
    select copy, row_number() over (partition by s.stream order by s.position) - 1, 0, s.writer, s.n, s.attempt,
           s.written_at, s.stream, s.kind, s.item
      from @extschema@.stream_items s
     where s.instance_id = source
       and s.run = coalesce((select max(h.event_id) from @extschema@.history h
                              where h.instance_id = source and h.event_id < place and h.kind = 'continued'), 0)
       and exists (select from @extschema@.history h
                    where h.instance_id = source and h.event_id < place and h.event_id > s.run and h.seq = s.writer
                      and h.kind in ('step', 'stream'));
end
$$;
