-- What follows from the end of an instance, however it came: a trigger on `instances`, which fires only for those that
-- have a parent or children.
--
-- A parent that still runs gets an event of kind `child`; children with parent_close = 'cancel' are asked to cancel.
-- `security definer`: the end may be a client's doing.
create or replace function @extschema@.instance_ended() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if new.parent is not null then
        insert into @extschema@.events (instance_id, kind, name, sent_by, payload)
        select p.id, 'child', new.workflow, @extschema@.caller(),
               jsonb_build_object('id', new.id, 'seq', new.parent_seq, 'status', new.status,
                                  'output', @extschema@.whole(new.id, new.output), 'error', new.error)
          from @extschema@.instances p
         where p.id = new.parent and p.status not in ('completed', 'failed', 'cancelled', 'timed_out');
        if found then
            perform pg_notify(@extschema@.channel(), 'event');
        end if;
    end if;
    if new.has_children then
        perform @extschema@.request_cancel(c.id, format('its parent %s has ended (%s)', new.id, new.status))
           from @extschema@.instances c
          where c.parent = new.id and c.parent_close = 'cancel'
            and c.status not in ('completed', 'failed', 'cancelled', 'timed_out');
    end if;
    return null;
end
$$;
