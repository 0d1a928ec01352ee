-- Instances that ended badly or stand still, newest first when ordered by id desc.
create or replace view @extschema@.failures as
select i.id, i.workflow, i.version, i.status, i.error ->> 'type' as type, i.error ->> 'message' as message,
       i.takeovers, i.created_at, i.finished_at, i.error
  from @extschema@.instances i
 where i.status in ('failed', 'timed_out', 'paused');
