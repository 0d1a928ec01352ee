-- In how many seconds something becomes due for a worker, as far as a time says so; null: nothing has a time.
--
-- Arguments: as claim(). What stands in a line is due already; claim() says when to look at lines again.
create or replace function @extschema@.next_due(names text[], due_since timestamptz[], listens text[] default null)
returns float8
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    first timestamptz;
    aside timestamptz;
begin
    if listens is null or 'default' = any (listens) then
        select min(d.wake_at) into first
          from unnest(names, due_since) as u (name, since)
         cross join lateral (
            select i.wake_at
              from @extschema@.instances i
             where i.workflow = u.name and i.owner is null and i.status in ('pending', 'waiting')
               and i.queue = 'default' and i.priority = 0 and i.partition = ''
               and i.wake_at >= coalesce(u.since, '-infinity')
             order by i.wake_at
             limit 1
         ) d;
    end if;
    if (select i.queue
          from @extschema@.instances i
         where i.owner is null and i.status in ('pending', 'waiting')
           and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
         order by i.queue
         limit 1) is not null
    then
        select min(d.wake_at) into aside
          from @extschema@.waiting_queues() as q (queue)
         cross join (select distinct u.name from unnest(names) as u (name)) n
         cross join lateral (
            select i.wake_at
              from @extschema@.instances i
             where i.queue = q.queue and i.workflow = n.name and i.owner is null and i.status in ('pending', 'waiting')
               and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
               and (case when i.line is not null then hashtextextended(i.partition, 0) end) is null and i.line is null
             order by (case when i.line is not null then hashtextextended(i.partition, 0) end), i.line, i.wake_at
             limit 1
         ) d
         where listens is null or q.queue = any (listens);
    end if;
    return extract(epoch from least(first, aside) - now());
end
$$;
