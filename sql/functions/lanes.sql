-- The lanes of a queue's line, in order of the partitions' hashes from `since` on: one per workflow, partition and rank
-- in which somebody waits. Whatever waits behind the first is not read: a million in a lane cost what one does.
create or replace function @extschema@.lanes(queue text, names text[], since bigint, most int)
returns table (workflow text, hash bigint, rank int, partition text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive lane (workflow, hash, rank, partition) as (
        select f.workflow, f.hash, f.line, f.partition
          from (select distinct u.name from unnest(names) as u (name)) n
         cross join lateral (
            select i.workflow, (case when i.line is not null then hashtextextended(i.partition, 0) end) as hash, i.line, i.partition
              from @extschema@.instances i
             where i.queue = lanes.queue and i.workflow = n.name
               and i.owner is null and i.status in ('pending', 'waiting')
               and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
               and (case when i.line is not null then hashtextextended(i.partition, 0) end) >= since
             order by (case when i.line is not null then hashtextextended(i.partition, 0) end), i.line
             limit 1
         ) f
        union all
        select f.workflow, f.hash, f.line, f.partition
          from lane l
         cross join lateral (
            select i.workflow, (case when i.line is not null then hashtextextended(i.partition, 0) end) as hash, i.line, i.partition
              from @extschema@.instances i
             where i.queue = lanes.queue and i.workflow = l.workflow
               and i.owner is null and i.status in ('pending', 'waiting')
               and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
               and ((case when i.line is not null then hashtextextended(i.partition, 0) end), i.line) > (l.hash, l.rank)
             order by (case when i.line is not null then hashtextextended(i.partition, 0) end), i.line
             limit 1
         ) f
    )
    select l.workflow, l.hash, l.rank, l.partition from lane l limit most
$$;
