-- Steps that others run than who holds their instance, by kind, queue and name: how many are due, how many come later (an
-- attempt that waits), how many somebody has taken, and since when the first waits.
create or replace view @extschema@.task_stats as
select t.kind, t.queue, t.name,
       count(*) filter (where t.owner is null and t.taken_at is null and t.run_at <= now()) as due,
       count(*) filter (where t.owner is null and t.taken_at is null and t.run_at > now()) as later,
       count(*) filter (where t.owner is not null or t.taken_at is not null) as taken,
       min(t.run_at) filter (where t.owner is null and t.taken_at is null and t.run_at <= now()) as oldest_due
  from @extschema@.tasks t
 group by t.kind, t.queue, t.name;
