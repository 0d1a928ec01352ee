-- Instances that ran over their deadline.
create or replace view @extschema@.timed_out as
select i.id, i.workflow, i.version, i.deadline, i.created_at, i.finished_at, i.error
  from @extschema@.instances i
 where i.status = 'timed_out';
