-- Every finished or failed try of every step, readable.
create or replace view @extschema@.steps as
select h.instance_id, h.event_id, h.seq, h.name,
       case when h.kind = 'attempt' then 'retried' when h.error is null then 'completed' else 'failed' end as status,
       h.attempt, h.payload as result, h.error, h.elapsed_ms, h.recorded_at
  from @extschema@.history h
 where h.kind in ('step', 'attempt');
