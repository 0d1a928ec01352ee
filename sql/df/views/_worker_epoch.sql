-- Who works: pumps and workers that live.
create or replace view df._worker_epoch as
select w.id as epoch_id, w.started_at, now() as last_seen_at
  from @extschema@.workers w
 where w.state in ('alive', 'draining') and w.lease_until > now();
