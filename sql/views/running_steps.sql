-- Steps that have run for a second or more, or have sent a heartbeat, as their workers last said; and steps of workflows in
-- SQL that somebody has taken (branches that run beside others, Python steps, requests, external steps).
create or replace view @extschema@.running_steps as
select a.instance_id, a.seq, a.name, a.attempt, a.worker, a.started_at, a.beat_at, a.done, a.total, a.details,
       i.workflow
  from @extschema@.attempts a
 cross join lateral (select o.workflow from @extschema@.instances o
                      where o.id = a.instance_id and o.owner = a.worker and o.status = 'running' offset 0) i
union all
select t.instance_id, t.seq, t.name, t.attempt, t.owner, t.taken_at, null, null, null, t.details, i.workflow
  from @extschema@.tasks t
  join @extschema@.instances i on i.id = t.instance_id
 where t.owner is not null or t.taken_at is not null;
