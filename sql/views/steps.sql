-- Every finished or failed try of every step, and those that were recorded before they began, readable.
create or replace view @extschema@.steps as
select h.instance_id, h.event_id, h.seq, h.name,
       case when h.kind = 'pending' then 'pending'
            when h.error ->> 'type' in ('pgdurable.errors.StepTimeout', 'pgdurable.errors.HeartbeatTimeout')
            then case when h.kind = 'attempt' then 'timed_out, retried' else 'timed_out' end
            when h.kind = 'attempt' then 'retried' when h.error is null then 'completed' else 'failed' end as status,
       h.attempt,
       case when h.payload ? '$pgdurable:aside' then @extschema@.whole(h.instance_id, h.payload) else h.payload
       end as result, h.error, h.elapsed_ms, h.recorded_at
  from @extschema@.history h
 where h.kind in ('step', 'attempt', 'pending');
