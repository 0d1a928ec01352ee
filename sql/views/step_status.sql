-- Every step and wait of each instance of a workflow in SQL, as its definition has it, with how far it has come: see
-- step_states. Ask for instances by id, or by what an index of `instances` serves.
create or replace view @extschema@.step_status as
select i.id as instance_id, i.workflow, i.version, s.n, s.path, s.op, s.name, s.status, s.attempts, s.times, s.first_at,
       s.last_at, s.elapsed_ms, s.until, s.waits_for, s.error
  from @extschema@.instances i
 cross join lateral @extschema@.step_states(i.id) s;
