-- For fork: tells a copy how the children ended that its original had started before the place where it was copied, and
-- that had ended only after it. Of those that still run nobody would tell it.
-- Raises: PGD05 a child still runs, or has been removed.
create or replace function @extschema@.adopt_children(source uuid, copy uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
begin
    for one in
        select h.seq, h.name, h.event_id, c.id, c.status, c.output, c.error
          from @extschema@.history h
          left join lateral (
            select i.id, i.status, i.output, i.error from @extschema@.instances i
             where i.id = (h.payload ->> 'id')::uuid or (i.parent = source and i.parent_seq = h.seq)
             order by i.id = (h.payload ->> 'id')::uuid desc nulls last, i.id desc limit 1
         ) c on true
         where h.instance_id = copy and h.kind = 'child' and h.error is null
           and not exists (select from @extschema@.history e
                            where e.instance_id = copy and e.kind = 'child_end' and e.seq = h.seq)
         order by h.event_id
    loop
        if one.status in ('completed', 'failed', 'cancelled', 'timed_out') then
            insert into @extschema@.events (instance_id, kind, name, sent_by, payload)
            values (copy, 'child', one.name, @extschema@.caller(),
                    jsonb_build_object('id', one.id, 'seq', one.seq, 'status', one.status,
                                       'output', @extschema@.whole(one.id, one.output), 'error', one.error));
        else
            raise exception using errcode = 'PGD05',
                message = format('child %s (event %s) of the instance to be forked %s', coalesce(one.id::text, one.name),
                    one.event_id, case when one.id is null then 'has been removed' else 'still runs: ' || one.status end),
                hint = format('Fork from event %s, before it was started, or wait for its end.', one.event_id);
        end if;
    end loop;
end
$$;
