-- The queues in which something waits, in a line or for its time, in order of their names. Of each queue one row is read.
create or replace function @extschema@.waiting_queues() returns setof text
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
    select q.queue from queues q
$$;
