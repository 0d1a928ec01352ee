-- The part of claim() that goes through the lines of queues: who of them may go, up to `room` in all; see claim_queue.
--
-- Queues are looked at in random order, so that none starves behind another.
-- Returns: one row: the instances, locked; the time at which those that begin are counted as begun, which is to be their
-- `started_at`; and when to look again at the latest, if there is anything to say.
create or replace function @extschema@.claim_queued(
    worker bigint, names text[], versions text[], is_current boolean[], room int, listens text[],
    out ids uuid[], out at timestamptz, out again timestamptz)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    name text;
    chosen uuid[];
    begins text[];
    later timestamptz;
    begun_queues text[] := '{}';
    begun_partitions text[] := '{}';
begin
    ids := '{}';
    for name in
        select q.queue
          from @extschema@.waiting_queues() as q (queue)
         where (listens is null or q.queue = any (listens))
           and not exists (select from @extschema@.queues s where s.name = q.queue and s.paused)
         order by random()
    loop
        exit when cardinality(ids) >= room;
        select array_agg(c.id) filter (where c.id is not null), array_agg(c.begins) filter (where c.begins is not null),
               min(c.again)
          into chosen, begins, later
          from @extschema@.claim_queue(name, worker, names, versions, is_current, room - cardinality(ids)) c;
        ids := ids || coalesce(chosen, '{}');
        again := least(again, later);
        if begins is not null then
            begun_queues := begun_queues || array_fill(name, array[cardinality(begins)]);
            begun_partitions := begun_partitions || begins;
        end if;
    end loop;
    -- After every look at what had begun before: what is counted here falls out of no window too early.
    at := clock_timestamp();
    if begun_queues <> '{}' then
        insert into @extschema@.queue_starts (queue, partition, at, n)
        select u.queue, u.partition, claim_queued.at, count(*)
          from unnest(begun_queues, begun_partitions) as u (queue, partition)
         group by u.queue, u.partition;
        if random() < 0.02 then
            perform @extschema@.forget_queue_starts(begun_queues[1]);
        end if;
    end if;
end
$$;
