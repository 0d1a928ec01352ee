-- What happened in each of the last 15 minutes; for another time call the function throughput.
create or replace view @extschema@.throughput_per_minute as
select t.minute, t.started, t.completed, t.failed, t.cancelled, t.timed_out, t.steps, t.failed_attempts
  from @extschema@.throughput() t;
