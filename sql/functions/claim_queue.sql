-- Who of one queue's line may go now: chosen and locked, not yet taken, which is claim()'s part in the same transaction.
--
-- Arguments: as claim(). Locks, in order: the queue, by an advisory lock that is tried, never waited for; the instances
-- chosen, skipping any that somebody else holds. So one session at a time lets instances of a queue go, and what it
-- counts stays so until it commits: slots held are instances with an owner, and what has begun within the time of a
-- rate is in `queue_starts`, with times in the order of the lock.
-- Returns: the instances, with the partition of those that are to be counted as begun (claim_queued does); and perhaps
-- a row without an instance: `again` is when to look again, for a rate lets more go then, or the queue was busy.
--
-- Order: what has begun before goes first. Then partitions share by weight: who holds (or has begun, where there is a
-- rate) the fewest for its weight goes next. Within a partition the lower priority goes first, then who waits longest.
-- A line is read lane by lane (see lanes); of many partitions, a thousand lanes from a random place on.
create or replace function @extschema@.claim_queue(
    queue text, worker bigint, names text[], versions text[], is_current boolean[], room int)
returns table (id uuid, begins text, again timestamptz)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    most_lanes constant int := 1000;
    resumes constant int := -100000;
    settings @extschema@.queues;
    own boolean;
    counted boolean;
    moment timestamptz;
    allowed int := room;
    may_begin int;
    earliest timestamptz;
    held_partitions text[];
    held int[];
    held_here int[];
    lane_workflows text[];
    lane_hashes bigint[];
    lane_ranks int[];
    lane_partitions text[];
    begun_partitions text[];
    begun int[];
    begun_first timestamptz[];
    place bigint;
    n_some int;
    some_workflows text[];
    some_hashes bigint[];
    some_ranks int[];
    some_partitions text[];
    share float8;
    chosen uuid[];
    short boolean;
    opens timestamptz;
begin
    if not pg_try_advisory_xact_lock(@extschema@.lock_class(3), hashtext(queue) | 1073741824) then
        return query select null::uuid, null::text, clock_timestamp() + (0.5 + random()) * interval '3 milliseconds';
        return;
    end if;
    select q.* into settings from @extschema@.queues q where q.name = claim_queue.queue;
    if settings.paused then
        return;
    end if;
    select array_agg(l.workflow), array_agg(l.hash), array_agg(l.rank), array_agg(l.partition)
      into lane_workflows, lane_hashes, lane_ranks, lane_partitions
      from @extschema@.lanes(queue, names, -9223372036854775808, most_lanes) l;
    if lane_workflows is null then
        return;
    end if;
    if cardinality(lane_workflows) = most_lanes then
        place := hashtextextended(random()::text, 0);
        select array_agg(l.workflow), array_agg(l.hash), array_agg(l.rank), array_agg(l.partition)
          into some_workflows, some_hashes, some_ranks, some_partitions
          from @extschema@.lanes(queue, names, place, most_lanes) l;
        -- From there to the end, and round: what is left of the thousand, from the beginning.
        n_some := coalesce(cardinality(some_workflows), 0);
        lane_workflows := some_workflows || lane_workflows[1 : most_lanes - n_some];
        lane_hashes := some_hashes || lane_hashes[1 : most_lanes - n_some];
        lane_ranks := some_ranks || lane_ranks[1 : most_lanes - n_some];
        lane_partitions := some_partitions || lane_partitions[1 : most_lanes - n_some];
    end if;
    own := settings.name is not null and exists (
        select from @extschema@.queue_partitions p where p.queue = claim_queue.queue);
    -- Slots.
    if settings.concurrency is not null or settings.worker_concurrency is not null
       or settings.partition_concurrency is not null or settings.partition_worker_concurrency is not null or own then
        select array_agg(h.partition), array_agg(h.n), array_agg(h.here)
          into held_partitions, held, held_here
          from (select i.partition, count(*)::int as n, (count(*) filter (where i.owner = worker))::int as here
                  from @extschema@.instances i
                 where i.queue = claim_queue.queue and i.queue <> 'default'
                   and i.owner is not null and i.status in ('pending', 'running')
                 group by i.partition) h;
        allowed := least(allowed,
            settings.concurrency - coalesce((select sum(u.n) from unnest(held) as u (n)), 0),
            settings.worker_concurrency - coalesce((select sum(u.n) from unnest(held_here) as u (n)), 0));
        if allowed <= 0 then
            return;
        end if;
    end if;
    -- Rates.
    moment := clock_timestamp();
    if settings.rate_count is not null then
        select settings.rate_count - coalesce(sum(s.n), 0), min(s.at) into may_begin, earliest
          from @extschema@.queue_starts s
         where s.queue = claim_queue.queue and s.at > moment - make_interval(secs => settings.rate_seconds);
        if may_begin <= 0 then
            opens := earliest + make_interval(secs => settings.rate_seconds);
        end if;
    end if;
    counted := settings.rate_count is not null or settings.partition_rate_count is not null or (own and exists (
        select from @extschema@.queue_partitions p
         where p.queue = claim_queue.queue and p.rate_count is not null));
    if counted then
        select array_agg(b.partition), array_agg(b.n), array_agg(b.first)
          into begun_partitions, begun, begun_first
          from (select s.partition, sum(s.n)::int as n, min(s.at) as first
                  from @extschema@.queue_starts s
                  left join @extschema@.queue_partitions p on p.queue = s.queue and p.partition = s.partition
                 where s.queue = claim_queue.queue
                   and s.at > moment - make_interval(secs => greatest(
                       settings.rate_seconds, settings.partition_rate_seconds,
                       (select max(o.rate_seconds) from @extschema@.queue_partitions o where o.queue = claim_queue.queue)))
                   and s.at > moment - make_interval(
                       secs => coalesce(p.rate_seconds, settings.partition_rate_seconds, settings.rate_seconds))
                 group by s.partition) b;
    end if;
    -- How far into its lanes each partition is read: to the end of what may go, or where that were much, to a share.
    share := case when allowed::float8 * cardinality(lane_workflows) <= 2000 then null else 4 end;
    loop
        with lane as materialized (
            select l.workflow, l.hash, l.rank, l.partition
              from unnest(lane_workflows, lane_hashes, lane_ranks, lane_partitions)
                   as l (workflow, hash, rank, partition)
        ), part as materialized (
            select p.partition, p.hash, p.weight, p.used, p.begin_at_most, p.first,
                   least(p.most, ceil(share * allowed * p.weight / sum(p.weight) over ()))::int as depth,
                   p.most
              from (
                select l.partition, l.hash, coalesce(o.weight, 1)::float8 as weight,
                       coalesce(h.n, 0) + coalesce(b.n, 0) as used,
                       coalesce(o.rate_count, settings.partition_rate_count) - coalesce(b.n, 0) as begin_at_most,
                       coalesce(b.first, moment) + make_interval(secs => coalesce(o.rate_seconds, settings.partition_rate_seconds))
                           as first,
                       greatest(least(allowed,
                           coalesce(o.concurrency, settings.partition_concurrency) - coalesce(h.n, 0),
                           coalesce(o.worker_concurrency, settings.partition_worker_concurrency) - coalesce(h.here, 0)),
                           0) as most
                  from (select distinct d.partition, d.hash from lane d) l
                  left join @extschema@.queue_partitions o
                    on o.queue = claim_queue.queue and o.partition = l.partition
                  left join unnest(held_partitions, held, held_here) as h (partition, n, here)
                    on h.partition = l.partition
                  left join unnest(begun_partitions, begun, begun_first) as b (partition, n, first)
                    on b.partition = l.partition
                 where o.paused is not true
              ) p
        ), candidate as materialized (
            select c.id, p.hash, p.weight, p.used, p.depth, p.most, p.begin_at_most, p.first,
                   l.rank > resumes as begins, random() as luck,
                   row_number() over (partition by p.hash order by l.rank, c.wake_at, c.id) as k,
                   count(*) filter (where l.rank > resumes)
                       over (partition by p.hash order by l.rank, c.wake_at, c.id rows unbounded preceding) as k_begins
              from part p
              join lane l on l.hash = p.hash
             cross join lateral (
                select i.id, i.wake_at
                  from @extschema@.instances i
                 where i.queue = claim_queue.queue and i.workflow = l.workflow
                   and (case when i.line is not null then hashtextextended(i.partition, 0) end) = l.hash
                   and i.line = l.rank
                   and i.owner is null and i.status in ('pending', 'waiting')
                   and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
                   and exists (select from unnest(names, versions, is_current) as m (name, version, is_current)
                                where m.name = i.workflow
                                  and (m.version = i.version or (i.version is null and m.is_current)))
                 order by i.wake_at
                 limit p.depth
             ) c
             where p.depth > 0
               and (l.rank <= resumes or (may_begin > 0 or may_begin is null))
        ), fitting as materialized (
            select c.*, row_number() over w as n, count(*) filter (where c.begins) over w as n_begins
              from candidate c
             where c.k <= c.depth and (not c.begins or c.begin_at_most is null or c.k_begins <= c.begin_at_most)
            window w as (order by c.begins, (c.used + c.k) / c.weight, c.luck rows unbounded preceding)
        )
        select array_agg(f.id) filter (where f.n <= allowed and (not f.begins or may_begin is null or f.n_begins <= may_begin)),
               -- Somebody was read to his share only, and others have left room.
               coalesce(bool_or(f.k = f.depth and f.depth < f.most), false)
                   and count(*) < least(allowed, coalesce(may_begin, allowed) + count(*) filter (where not f.begins)),
               least(opens, (select min(c.first) from candidate c where c.begins and c.k_begins > c.begin_at_most),
                     case when may_begin > 0 and bool_or(f.begins and f.n_begins > may_begin)
                          then coalesce(earliest, moment) + make_interval(secs => settings.rate_seconds) end)
          into chosen, short, opens
          from fitting f;
        exit when not short;
        share := share * 4;
    end loop;
    return query
    select l.id, case when l.line > resumes and counted then l.partition end, null::timestamptz
      from unnest(chosen) as u (id)
     cross join lateral (
        select i.id, i.line, i.partition
          from @extschema@.instances i
         where i.id = u.id and case when i.owner is null then i.status = 'pending' and i.line is not null end
           for update of i skip locked
     ) l;
    if opens is not null then
        return query select null::uuid, null::text, opens;
    end if;
end
$$;
