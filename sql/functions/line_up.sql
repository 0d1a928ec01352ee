-- Puts what is due into the lines of its queues: delayed starts and parked instances whose time has come, parked ones
-- with events, and what ended workers held of queues with limits. Of those queues nothing is claimed but from the line,
-- so that claim_queue holds the limits for all of it.
--
-- Plain instances (queue `default`, priority 0, no partition) have no line. Called by claim(), arguments as there;
-- `listens`: the worker's queues, null for all. `most`: how many of each kind at the most.
-- Locks: the instances, skipping any that somebody else holds.
-- Returns: whether there may be more.
create or replace function @extschema@.line_up(
    names text[], versions text[], is_current boolean[], listens text[], after_event bigint, most int)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    called uuid[];
    due uuid[];
begin
    select array_agg(c.id) into called
      from (select distinct e.instance_id from @extschema@.events e
             where e.seq > after_event and e.seq < after_event + 1000000000000000) n
     cross join lateral (
        select i.id
          from @extschema@.instances i
         where i.id = n.instance_id
           and case when i.owner is null then i.status = 'waiting' end
           and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
           and (listens is null or i.queue = any (listens))
           and exists (select from unnest(names, versions) as m (name, version)
                        where m.name = i.workflow and m.version = i.version)
           for update of i skip locked
     ) c;
    select array_agg(d.id) into due
      from @extschema@.waiting_queues() as q (queue)
     cross join (select distinct u.name from unnest(names) as u (name)) n
     cross join lateral (
        select i.id
          from @extschema@.instances i
         where i.queue = q.queue and i.workflow = n.name and i.owner is null and i.status in ('pending', 'waiting')
           and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
           and (case when i.line is not null then hashtextextended(i.partition, 0) end) is null and i.line is null
           and i.wake_at <= now()
           and exists (select from unnest(names, versions, is_current) as m (name, version, is_current)
                        where m.name = i.workflow
                          and (m.version = i.version or (i.version is null and m.is_current)))
         -- As the index has them; the first two are null.
         order by (case when i.line is not null then hashtextextended(i.partition, 0) end), i.line, i.wake_at
         limit most
           for update of i skip locked
     ) d
     where listens is null or q.queue = any (listens);
    if called is null and due is null then
        return false;
    end if;
    update @extschema@.instances i
       set status = 'pending',
           line = case when i.started_at is null then i.priority::int else -100000 end,
           wake_at = coalesce(least(i.wake_at, now()), now())
     where i.id = any (called || due);
    return coalesce(cardinality(due), 0) >= most;
end
$$;
