-- A step has ended, and an earlier attempt of it may have written more than the last one: for apply_writes.
--
-- `place` is the step's seq; `body` has in `keep`, for each stream, how many parts of it stay. Positions are never given out twice,
-- so that nobody who has read this far misses anything: what goes leaves a void.
create or replace function @extschema@.cut_stream(id uuid, place int, body jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update @extschema@.stream_items s
       set kind = 'void', item = null
      from jsonb_each(body -> 'keep') k
     where s.instance_id = cut_stream.id and s.run = coalesce((body ->> 'run')::int, 0) and s.writer = place
       and s.stream = k.key and s.n >= k.value::int
       and s.kind <> 'void';
end
$$;
