-- Gives an instance what another had published and streamed up to an event of its history: for fork, which has copied
-- that history before.
create or replace function @extschema@.copy_talk(source uuid, target uuid, upto int) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into @extschema@.states (instance_id, key, run, place, value)
    select distinct on (h.name) target, h.name,
           coalesce((select max(c.event_id) from @extschema@.history c
                      where c.instance_id = source and c.kind = 'continued' and c.event_id < h.event_id), 0),
           h.seq, @extschema@.whole(source, h.payload)
      from @extschema@.history h
     where h.instance_id = source and h.event_id <= upto and h.kind = 'state'
     order by h.name, h.event_id desc
    on conflict do nothing;
    insert into @extschema@.stream_items
        (instance_id, stream, position, run, writer, n, attempt, kind, written_at, item)
    select target, s.stream, s.position, s.run, s.writer, s.n, s.attempt, s.kind, s.written_at, s.item
      from @extschema@.stream_items s
     where s.instance_id = source
       and exists (select from @extschema@.history h
                    where h.instance_id = source and h.event_id > s.run and h.event_id <= upto and h.seq = s.writer
                      and h.kind in ('step', 'stream')
                      and not exists (select from @extschema@.history c
                                       where c.instance_id = source and c.kind = 'continued'
                                         and c.event_id > s.run and c.event_id < h.event_id))
    on conflict do nothing;
end
$$;
