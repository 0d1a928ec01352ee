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
            select i.workflow, hashtextextended(i.partition, 0) as hash, i.line, i.partition
              from @extschema@.instances i
             where i.queue = lanes.queue and i.workflow = n.name
               and i.owner is null and i.status = 'pending' and i.line is not null
               and hashtextextended(i.partition, 0) >= since
             order by hashtextextended(i.partition, 0), i.line
             limit 1
         ) f
        union all
        select f.workflow, f.hash, f.line, f.partition
          from lane l
         cross join lateral (
            select i.workflow, hashtextextended(i.partition, 0) as hash, i.line, i.partition
              from @extschema@.instances i
             where i.queue = lanes.queue and i.workflow = l.workflow
               and i.owner is null and i.status = 'pending' and i.line is not null
               and (hashtextextended(i.partition, 0), i.line) > (l.hash, l.rank)
             order by hashtextextended(i.partition, 0), i.line
             limit 1
         ) f
    )
    select l.workflow, l.hash, l.rank, l.partition from lane l limit most
$$;
