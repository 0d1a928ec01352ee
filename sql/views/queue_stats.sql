-- How much stands in each queue: due now, due later, waiting for an event, running.
create or replace view @extschema@.queue_stats as
select i.queue, i.workflow,
       count(*) filter (where i.owner < 0 or (i.owner is null and i.wake_at <= now())) as due,
       count(*) filter (where i.owner is null and i.wake_at > now()) as later,
       count(*) filter (where i.owner is null and i.wake_at is null) as awaiting_event,
       count(*) filter (where i.owner > 0) as running,
       min(i.wake_at) filter (where i.owner is null and i.wake_at <= now()) as oldest_due
  from @extschema@.instances i
 where i.owner is not null or i.status in ('pending', 'waiting')
 group by i.queue, i.workflow;
