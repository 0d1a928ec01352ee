-- Queues in which something waits and to which no living worker listens. Of each queue one row is read.
create or replace function @extschema@.deaf_queues() returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive queues (queue) as (
        select q.queue
          from (select i.queue
                  from @extschema@.instances i
                 where i.owner is null and i.status in ('pending', 'waiting')
                   and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
                 order by i.queue
                 limit 1) q
        union all
        select n.queue
          from queues q
         cross join lateral (
            select i.queue
              from @extschema@.instances i
             where i.owner is null and i.status in ('pending', 'waiting')
               and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
               and i.queue > q.queue
             order by i.queue
             limit 1
         ) n
    )
    select q.queue
      from queues q
     where not exists (
        select from @extschema@.workers w
         where w.state = 'alive' and w.lease_until > now() and (w.queues is null or q.queue = any (w.queues)))
$$;
