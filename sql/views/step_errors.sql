-- Attempts that failed, of every kind of step. Of all instances at once it reads their history: ask for those started since
-- some time (`instance_id >= id_at(...)`), which is a part of the primary key's range, or for one.
create or replace view @extschema@.step_errors as
select h.instance_id, h.event_id, h.seq, h.name, h.attempt, h.kind = 'attempt' as retried,
       h.error ->> 'type' in ('pgdurable.errors.StepTimeout', 'pgdurable.errors.HeartbeatTimeout') as timed_out,
       coalesce(h.error ->> 'sqlstate', h.error ->> 'type') as type, h.error ->> 'message' as message, h.elapsed_ms,
       h.recorded_at, h.error
  from @extschema@.history h
 where h.error is not null and h.kind in ('step', 'attempt');
