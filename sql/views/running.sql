-- Instances that a worker holds now, or held when it ended and nobody has claimed since.
create or replace view @extschema@.running as
select i.id, i.workflow, i.version, i.owner, w.name as worker, w.lease_until, i.takeovers,
       i.created_at, i.started_at
  from @extschema@.instances i
  left join @extschema@.workers w on w.id = i.owner
 where i.owner > 0;
