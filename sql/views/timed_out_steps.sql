-- Attempts that ran over their timeout, or sent no heartbeat for too long. As with step_errors, ask for a part of them.
create or replace view @extschema@.timed_out_steps as
select e.instance_id, e.event_id, e.seq, e.name, e.attempt, e.retried, e.message, e.elapsed_ms, e.recorded_at
  from @extschema@.step_errors e
 where e.timed_out;
