-- Looks at what ended workers left behind that had been taken over from a dead one before: has it got on since?
--
-- Such an instance leaves its worker's hands (owner becomes -workers.id, status pending) with its strikes counted:
-- none when it has recorded anything since it was last taken, else one more when its worker died (not when it stopped
-- in good order). With `most` strikes it is paused, with the error `Quarantined`.
--
-- Locks: the instances it looks at, skipping those that another worker looks at.
-- One with a single strike that belongs to a queue with limits goes back into the queue's line (see line_up_orphans).
-- Arguments: as claim(). Returns: how many were looked at; at most `at_once`.
create or replace function @extschema@.judge(
    names text[], versions text[], is_current boolean[], most int, at_once int,
    listens text[] default null)
returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    judged int;
    limited text[] := array(select q.name from @extschema@.queues q);
begin
    with mine as materialized (
        select u.name, u.version, u.is_current
          from unnest(names, versions, is_current) as u (name, version, is_current)
    ), accused as materialized (
        select a.id, w.id as worker, w.name, a.got_on, w.state = 'dead' as died,
               case when a.got_on then 0 else a.strikes end + (w.state = 'dead')::int as strikes
          from @extschema@.workers w
         cross join lateral (
            select i.id, i.strikes,
                   coalesce((select h.recorded_at > i.taken_at
                               from @extschema@.history h
                              where h.instance_id = i.id
                              order by h.event_id desc
                              limit 1), false) as got_on
              from @extschema@.instances i
             where i.owner = w.id and i.strikes > 0 and (listens is null or i.queue = any (listens))
               and i.status not in ('completed', 'failed', 'cancelled', 'timed_out', 'paused')
               and exists (select from mine m where m.name = i.workflow
                            and (m.version = i.version or (i.version is null and m.is_current)))
               for update of i skip locked
         ) a
         where w.state in ('dead', 'stopped') and not w.emptied
         limit at_once
    )
    update @extschema@.instances i
       set strikes = a.strikes,
           takeovers = i.takeovers + a.died::int,
           started_at = coalesce(i.started_at, i.created_at),
           owner = case when a.strikes < most and not (a.strikes < 2 and i.queue = any (limited)) then -a.worker end,
           line = case when i.queue = any (limited) then -100000 end,
           wake_at = case when i.queue = any (limited) then now() else i.wake_at end,
           status = case when a.strikes < most then 'pending' else 'paused' end,
           error = case when a.strikes < most then i.error else jsonb_build_object(
               'type', 'pgdurable.errors.Quarantined',
               'message', format(
                   'each of the last %s workers that ran this instance died before it got on, %s (%s) the last',
                   a.strikes, a.name, a.worker)) end
      from accused a
     where i.id = a.id;
    get diagnostics judged = row_count;
    return judged;
end
$$;
