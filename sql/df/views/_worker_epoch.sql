-- Who works: pumps and workers that live.
create or replace view df._worker_epoch as
select w.id as epoch_id, w.started_at, clock_timestamp() as last_seen_at
  from @extschema@.workers w
 where w.state in ('alive', 'draining') and w.lease_until > clock_timestamp();
