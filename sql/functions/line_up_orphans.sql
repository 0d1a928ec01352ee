-- What ended workers held of queues with limits goes back into the line, ahead of what has not begun, so that the
-- limits hold while it is taken over: until it is claimed from there it holds no slot, and nobody has more than his.
-- What has died with its worker before is judge()'s business.
--
-- Called by claim(), arguments as there; `limited`: the queues that are to be looked at.
-- Locks: the instances, skipping any that somebody else holds. Returns: how many.
create or replace function @extschema@.line_up_orphans(
    names text[], versions text[], is_current boolean[], limited text[])
returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    moved int;
begin
    -- By queue, of which few are held at a time; `+ 0` hides the index of all that a worker held.
    with orphans as materialized (
        select o.id, w.state = 'dead' as died
          from @extschema@.workers w
         cross join unnest(limited) as l (queue)
         cross join lateral (
            select i.id
              from @extschema@.instances i
             where i.queue = l.queue and i.queue <> 'default' and i.owner is not null and i.owner + 0 = w.id
               and i.status in ('pending', 'running') and i.strikes = 0
               and exists (select from unnest(names, versions, is_current) as m (name, version, is_current)
                            where m.name = i.workflow
                              and (m.version = i.version or (i.version is null and m.is_current)))
               for update of i skip locked
         ) o
         where w.state in ('dead', 'stopped') and not w.emptied
    )
    update @extschema@.instances i
       set status = 'pending', owner = null, line = -100000, wake_at = now(),
           started_at = coalesce(i.started_at, i.created_at),
           takeovers = i.takeovers + o.died::int, strikes = i.strikes + o.died::int
      from orphans o
     where i.id = o.id;
    get diagnostics moved = row_count;
    return moved;
end
$$;
