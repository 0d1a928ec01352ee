-- How much stands in each queue: due now, due later, waiting for an event, running; how many partitions have something
-- due; how many living workers listen to the queue and have the workflow; and whether the queue is paused.
create or replace view @extschema@.queue_stats as
select i.queue, i.workflow,
       count(*) filter (where i.owner < 0 or (i.owner is null and i.wake_at <= now())) as due,
       count(*) filter (where i.owner is null and i.wake_at > now()) as later,
       count(*) filter (where i.owner is null and i.wake_at is null) as awaiting_event,
       count(*) filter (where i.owner > 0) as running,
       min(i.wake_at) filter (where i.owner is null and i.wake_at <= now()) as oldest_due,
       count(distinct i.partition) filter (where i.partition <> '' and i.owner is null and i.wake_at <= now())
           as partitions_due,
       (select count(*)
          from @extschema@.workers w
         where w.state = 'alive' and w.lease_until > now() and (w.queues is null or i.queue = any (w.queues))
           and exists (select from jsonb_array_elements(w.workflows) as has (entry)
                        where has.entry ->> 'name' = i.workflow)) as listeners,
       coalesce((select q.paused from @extschema@.queues q where q.name = i.queue), false) as paused
  from (
    -- One index each, so that what has ended is not read.
    select o.queue, o.workflow, o.owner, o.wake_at, o.partition
      from @extschema@.instances o
     where o.owner is not null
    union all
    select o.queue, o.workflow, o.owner, o.wake_at, o.partition
      from @extschema@.instances o
     where o.owner is null and o.status in ('pending', 'waiting')
       and o.queue = 'default' and o.priority = 0 and o.partition = ''
    union all
    select o.queue, o.workflow, o.owner, o.wake_at, o.partition
      from @extschema@.instances o
     where o.owner is null and o.status in ('pending', 'waiting')
       and (o.queue <> 'default' or o.priority <> 0 or o.partition <> '')
  ) i
 group by i.queue, i.workflow;
