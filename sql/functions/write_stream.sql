-- Writes items to a stream, for apply_writes. Only the instance's one owner does, so positions are given out in order.
--
-- `place` is the writer's seq. `body` has `run`, where the instance has continued as new; `stream`; `n`, the place of the first item among the writer's; `attempt`, of a
-- step; `items`; and `end`: whether the stream ends after them. What that writer wrote at these places before is
-- replaced where it stands: sent again it is the same, and an attempt that follows another leaves none twice.
create or replace function @extschema@.write_stream(id uuid, place int, body jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    name text := body ->> 'stream';
    first int := (body ->> 'n')::int;
    part int := coalesce((body ->> 'run')::int, 0);
    try smallint := (body ->> 'attempt')::smallint;
    there int;
    base int;
begin
    select max(s.n) + 1 into there
      from @extschema@.stream_items s
     where s.instance_id = write_stream.id and s.run = part and s.writer = place and s.stream = name
       and s.n >= first;
    if there is not null then
        update @extschema@.stream_items s
           set item = i.item, kind = i.kind, attempt = try, written_at = now()
          from @extschema@.stream_parts(body) i
         where s.instance_id = write_stream.id and s.run = part and s.writer = place and s.stream = name
           and s.n = first + i.k::int and s.n < there
           and (s.item is distinct from i.item or s.kind <> i.kind or s.attempt is distinct from try);
    end if;
    select coalesce(max(s.position) + 1, 0) into base
      from @extschema@.stream_items s
     where s.instance_id = write_stream.id and s.stream = name;
    there := coalesce(there, first);
    insert into @extschema@.stream_items (instance_id, stream, position, run, writer, n, attempt, kind, item)
    select write_stream.id, name, base + first + i.k::int - there, part, place, first + i.k::int, try, i.kind, i.item
      from @extschema@.stream_parts(body) i
     where first + i.k::int >= there;
end
$$;
