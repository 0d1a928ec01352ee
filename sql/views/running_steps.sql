-- Steps that have run for a second or more, or have sent a heartbeat, as their workers last said.
create or replace view @extschema@.running_steps as
select a.instance_id, a.seq, a.name, a.attempt, a.worker, a.started_at, a.beat_at, a.done, a.total, a.details,
       i.workflow
  from @extschema@.attempts a
  join @extschema@.instances i on i.id = a.instance_id
 where i.owner = a.worker and i.status = 'running';
