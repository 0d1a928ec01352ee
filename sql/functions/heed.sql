-- Carries out what instances of a worker were asked for, at a moment when the worker does nothing for them: each is
-- terminated, or paused, or, where the request has been withdrawn meanwhile, or a cancellation came too, let go for
-- whoever claims it. A request to pause is deleted: who deletes it, this or resume, decides.
--
-- Locks, in order: the worker's fence; the requests; the instances, in order of id.
-- Returns: the instances that were the worker's, and their new status; not those to be looked at again later.
-- Raises: PGD01 when the worker was taken over.
create or replace function @extschema@.heed(worker bigint, ids uuid[])
returns table (id uuid, status text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one uuid;
    ending record;
    requests bigint[];
    asked boolean;
    called_off boolean;
begin
    perform @extschema@.fence(worker);
    foreach one in array (select array_agg(u.id order by u.id) from unnest(ids) as u (id)) loop
        select array_agg(p.seq) into requests
          from (select e.seq from @extschema@.events e
                 where e.instance_id = one and e.kind = 'pause' for update skip locked) p;
        asked := requests is not null;
        -- Somebody is about to withdraw it, and their transaction is open: looked at again later.
        continue when not asked
            and exists (select from @extschema@.events e where e.instance_id = one and e.kind = 'pause');
        delete from @extschema@.events e where e.seq = any (requests);
        select e.payload ->> 'reason' as reason, e.sent_by into ending
          from @extschema@.events e where e.instance_id = one and e.kind = 'terminate' order by e.seq limit 1;
        if found then
            return query
            update @extschema@.instances i
               set status = 'cancelled', owner = null, wake_at = null, strikes = 0, finished_at = now(),
                   started_at = coalesce(i.started_at, i.created_at),
                   error = @extschema@.end_error('Terminated', 'it was terminated', ending.reason)
                           || jsonb_build_object('by', ending.sent_by)
             where i.id = one and i.owner = worker
            returning i.id, i.status;
            continue;
        end if;
        called_off := not asked
            or exists (select from @extschema@.events e where e.instance_id = one and e.kind = 'cancel');
        return query
        update @extschema@.instances i
           set status = case when called_off then 'waiting' else 'paused' end, owner = null, error = null, strikes = 0,
               wake_at = case when called_off then now() end,
               started_at = coalesce(i.started_at, i.created_at)
         where i.id = one and i.owner = worker
        returning i.id, i.status;
    end loop;
    perform pg_notify(@extschema@.channel(), 'due');
end
$$;
