-- In how many seconds there is something for a pump to do; 0: now; null: nothing is known to come.
--
-- Asked once a second, and at every hint, by who keeps pumps: an idle pump is in no call, and writes nothing.
-- `queues`: those the pumps listen to; null: all.
create or replace function @extschema@.pump_due(queues text[] default null) returns float8
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    first float8;
    names text[] := array(select distinct w.name from @extschema@.workflows w where w.kind = 'sql');
begin
    if exists (
        -- Steps that run beside their instance.
        select from @extschema@.tasks t
         where t.kind = 'sql' and t.owner is null and t.run_at <= now() and (pump_due.queues is null or t.queue = any (pump_due.queues)))
    or exists (
        -- In the line of a queue. Whether it may begin is the claim's to say.
        select from @extschema@.instances i
         where i.owner is null and i.status in ('pending', 'waiting')
           and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
           and i.line is not null and i.workflow = any (names) and (pump_due.queues is null or i.queue = any (pump_due.queues)))
    or exists (
        -- What an instance waits for has come. From the events to their instances, never the other way.
        select from @extschema@.events e
         cross join lateral (
            select from @extschema@.instances i
             where i.id = e.instance_id and i.owner is null and i.status = 'waiting' and i.workflow = any (names)
               and (pump_due.queues is null or i.queue = any (pump_due.queues)) offset 0) o)
    or exists (
        -- Left behind by a worker that has ended, or whose session is gone.
        select from @extschema@.workers w
         where (w.state in ('dead', 'stopped') and not w.emptied
                or w.state in ('alive', 'draining') and w.marked and not exists (
                    select from pg_locks l
                     where l.locktype = 'advisory'
                       and l.database = (select d.oid from pg_database d where d.datname = current_database())
                       and l.classid = @extschema@.lock_class(1)::oid and l.objid = w.id::oid and l.granted))
           and exists (select from @extschema@.instances i
                        where i.owner in (w.id, -w.id) and i.workflow = any (names)
                          and i.status not in ('completed', 'failed', 'cancelled', 'timed_out', 'paused')
                          and (pump_due.queues is null or i.queue = any (pump_due.queues)) offset 0))
    then
        return 0;
    end if;
    if names = '{}' then
        return null;
    end if;
    first := @extschema@.next_due(names, array_fill(null::timestamptz, array[cardinality(names)]), queues);
    -- What a schedule is to start.
    first := least(first, (select extract(epoch from s.next_at - clock_timestamp()) from @extschema@.schedules s
                            where s.next_at is not null and s.workflow = any (names) order by s.next_at limit 1));
    return case when first < 0 then 0 else first end;
end
$$;
