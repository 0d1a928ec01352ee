-- Instances that a worker holds now, or held when it ended and nobody has claimed since. `long_steps`: those of its steps
-- that have run for a second or more.
create or replace view @extschema@.running as
select i.id, i.workflow, i.version, i.owner, w.name as worker, w.lease_until, i.takeovers,
       i.created_at, i.started_at,
       array(select a.name from @extschema@.attempts a
              where a.instance_id = i.id and a.worker = i.owner order by a.started_at) as long_steps
  from @extschema@.instances i
  left join @extschema@.workers w on w.id = i.owner
 where i.owner > 0;
