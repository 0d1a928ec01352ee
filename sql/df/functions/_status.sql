-- The status of an instance in five words: pending, running, completed, failed, cancelled.
--
-- What waits or is paused runs; what was asked to be cancelled and has not ended is cancelled already.
create or replace function df._status(instance uuid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when i.status in ('completed', 'cancelled') then i.status
                when i.status in ('failed', 'timed_out') then 'failed'
                when exists (select from @extschema@.events e where e.instance_id = i.id and e.kind in ('cancel', 'terminate'))
                     or (i.status <> 'pending'
                         and exists (select from @extschema@.history h where h.instance_id = i.id and h.kind = 'cancel'))
                    then 'cancelled'
                when i.started_at is null and i.status = 'pending' then 'pending' else 'running' end
      from @extschema@.instances i where i.id = instance
$$;
