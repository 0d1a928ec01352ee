-- Gives a worker instances to run: those of ended workers first, then those with events, then those due.
--
-- Locks: the claimed rows of `instances`, skipping any that another worker is claiming. The worker's own fence.
-- Arguments: workflow names and versions the worker has, in two parallel arrays; the version it calls current
-- for each name is the one with `is_current`. `room` is how many it can take. `most_strikes` (3 or more; null: never):
-- an instance whose workers died so many times in a row, without its getting on in between, is paused. `on_trial`: how
-- many the worker holds now that were given a `trial`.
-- `due_since` (parallel to the names) and `after_event`: where to begin looking for due instances and for events, so that
-- what has been claimed and consumed before is not walked over again. It stays in the indexes until a vacuum, for which
-- an old snapshot may make it wait for hours. The caller knows where, and begins at the beginning now and then.
-- `listens`: the queues whose instances it takes; null: all. `tell`: whether it may be given a row without an id, whose
-- `woke_at` says when to look again at the latest: a queue was busy, or its rate lets more begin then.
-- Returns: the claimed instances, in order of id. `woke_at` is when those that were due had become so. `trial` is null,
-- or how many seconds an instance with two strikes or more is on trial.
-- Raises: PGD01 when the worker itself was taken over.
--
-- One that kills its worker kills whatever runs beside it too, which is how all of them get strikes. So those with two
-- or more run in ever smaller company: a thousand at a time, 32 when two strikes are left, and alone with the last one.
-- What gets on, waits, or outlives a trial of twice the time its last worker took to die is cleared; what is left in
-- the end is the killer. The thousand have two seconds at most, and are not cleared by that: most killers are quick,
-- and two crashes in a row must not keep tens of thousands of long steps waiting.
--
-- Statistics are never fresh here: tens of thousands of rows change their status between two looks of analyze.
-- So the text leaves the planner no choice: lateral subqueries that lock cannot become joins, and the update
-- takes an array. As joins, each of these read all of `instances` at one time or another.
create or replace function @extschema@.claim(
    worker bigint, names text[], versions text[], is_current boolean[], room int,
    most_strikes int default 5, on_trial int default 0,
    due_since timestamptz[] default null, after_event bigint default 0,
    listens text[] default null, tell boolean default false)
returns table (
    id uuid, workflow text, version text, input text, key text,
    started_at timestamptz, deadline timestamptz, takeovers smallint, parent uuid, labels text,
    strikes smallint, trial float8, woke_at timestamptz, queue text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    fewest smallint;
    company int := 0;
    listens_default boolean := listens is null or 'default' = any (listens);
    limited text[] := '{}';
    tight text[] := '{}';
    queued text;
    most_queued int := room;
    queued_ids uuid[] := '{}';
    queued_at timestamptz;
    queued_again timestamptz;
    again timestamptz;
begin
    perform @extschema@.fence(worker);
    if room > 0 then
        perform @extschema@.judge(names, versions, is_current, coalesce(most_strikes, 32767), 2 * room, listens);
        -- Those with the fewest strikes go first.
        select min(s.strikes) into fewest
          from @extschema@.workers w
         cross join lateral (
            select i.strikes
              from @extschema@.instances i
             where i.owner = -w.id and i.strikes > 1 and (listens is null or i.queue = any (listens))
               and exists (select from unnest(names, versions, is_current) as m (name, version, is_current)
                            where m.name = i.workflow
                              and (m.version = i.version or (i.version is null and m.is_current)))
             order by i.strikes
             limit 1
         ) s
         where w.state in ('dead', 'stopped') and not w.emptied;
        if fewest is not null then
            -- Of queues with limits of each worker suspects are taken one by one, where this one has room for them.
            tight := array(select q.name from @extschema@.queues q
                            where q.worker_concurrency is not null or q.partition_worker_concurrency is not null
                               or exists (select from @extschema@.queue_partitions p
                                           where p.queue = q.name and p.worker_concurrency is not null));
        end if;
        company := case coalesce(most_strikes, 32767) - fewest when 1 then 1 when 2 then 32 else 1000 end;
        -- The lines of queues. Where there is nothing of that kind, a look at two empty indexes finds it out.
        select array(select q.name from @extschema@.queues q where listens is null or q.name = any (listens)),
               (select i.queue
                  from @extschema@.instances i
                 where i.owner is null and i.status in ('pending', 'waiting')
                   and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '')
                 order by i.queue
                 limit 1)
          into limited, queued;
        if limited <> '{}' and exists (
            select from @extschema@.workers w where w.state in ('dead', 'stopped') and not w.emptied)
           and @extschema@.line_up_orphans(names, versions, is_current, limited) > 0
        then
            queued := limited[1];
        end if;
        if queued is not null then
            if @extschema@.line_up(names, versions, is_current, listens, after_event, greatest(room, 500)) then
                again := clock_timestamp();
            end if;
            -- Neither they nor the plain ones starve the others: who comes first has all the room every other time.
            if listens_default and random() < 0.5 and exists (
                select from unnest(names, due_since) as m (name, since)
                 cross join lateral (
                    select from @extschema@.instances i
                     where i.workflow = m.name and i.owner is null and i.status in ('pending', 'waiting')
                       and i.queue = 'default' and i.priority = 0 and i.partition = ''
                       and i.wake_at >= coalesce(m.since, '-infinity') and i.wake_at <= now()
                     order by i.wake_at
                     limit 1
                 ) d)
            then
                most_queued := room / 2;
            end if;
            select q.ids, q.at, q.again into queued_ids, queued_at, queued_again
              from @extschema@.claim_queued(worker, names, versions, is_current, most_queued, listens) q;
            again := least(again, queued_again);
            if 0 < most_queued and most_queued < room and cardinality(queued_ids) = most_queued then
                again := clock_timestamp();
            end if;
            room := room - cardinality(queued_ids);
        end if;
    end if;
    return query
    with mine as materialized (
        select u.name, u.version, u.is_current, coalesce(u.since, '-infinity') as since
          from unnest(names, versions, is_current, due_since) as u (name, version, is_current, since)
    ), orphans as materialized (
        select o.id, w.state = 'dead' as died
          from @extschema@.workers w
         cross join lateral (
            select i.id
              from @extschema@.instances i
             where i.owner = w.id and i.strikes = 0
               and (listens is null or i.queue = any (listens)) and i.queue <> all (limited)
               and i.status not in ('completed', 'failed', 'cancelled', 'timed_out', 'paused')
               and exists (select from mine m where m.name = i.workflow
                            and (m.version = i.version or (i.version is null and m.is_current)))
               for update of i skip locked
         ) o
         where w.state in ('dead', 'stopped') and not w.emptied
         limit greatest(room, 0)
    ), cleared as materialized (
        select o.id
          from @extschema@.workers w
         cross join lateral (
            select i.id
              from @extschema@.instances i
             where i.owner = -w.id and i.strikes < 2 and (listens is null or i.queue = any (listens))
               and exists (select from mine m where m.name = i.workflow
                            and (m.version = i.version or (i.version is null and m.is_current)))
               for update of i skip locked
         ) o
         where w.state in ('dead', 'stopped') and not w.emptied
         limit greatest(room - (select count(*) from orphans), 0)
    ), suspected as materialized (
        select o.id, case when company < 1000 then 2 * o.lasted + 5 else least(o.lasted, 2) end as trial
          from @extschema@.workers w
         cross join lateral (
            select i.id, extract(epoch from w.ended_at - i.taken_at)::float8 as lasted
              from @extschema@.instances i
             where i.owner = -w.id and i.strikes = fewest and (listens is null or i.queue = any (listens))
               and i.queue <> all (tight)
               and exists (select from mine m where m.name = i.workflow
                            and (m.version = i.version or (i.version is null and m.is_current)))
               for update of i skip locked
         ) o
         where w.state in ('dead', 'stopped') and not w.emptied
         limit greatest(
            least(company - on_trial, room - (select count(*) from orphans) - (select count(*) from cleared)), 0)
    ), guarded as materialized (
        select o.id, case when company < 1000 then 2 * o.lasted + 5 else least(o.lasted, 2) end as trial
          from @extschema@.workers w
         cross join lateral (
            select i.id, extract(epoch from w.ended_at - i.taken_at)::float8 as lasted
              from @extschema@.instances i
              join @extschema@.queues q on q.name = i.queue
              left join @extschema@.queue_partitions p on p.queue = i.queue and p.partition = i.partition
             cross join lateral (
                select count(*) as n, count(*) filter (where h.partition = i.partition) as of_partition
                  from @extschema@.instances h
                 where h.queue = i.queue and h.queue <> 'default'
                   and ((h.owner = worker and h.status in ('pending', 'running')) or h.id = any (queued_ids))) held
             where i.owner = -w.id and i.strikes = fewest and (listens is null or i.queue = any (listens))
               and i.queue = any (tight)
               and (q.worker_concurrency is null or held.n < q.worker_concurrency)
               and (coalesce(p.worker_concurrency, q.partition_worker_concurrency) is null
                    or held.of_partition < coalesce(p.worker_concurrency, q.partition_worker_concurrency))
               and exists (select from mine m where m.name = i.workflow
                            and (m.version = i.version or (i.version is null and m.is_current)))
             limit 1
               for update of i skip locked
         ) o
         where tight <> '{}' and w.state in ('dead', 'stopped') and not w.emptied
         limit least(1, greatest(
            least(company - on_trial, room - (select count(*) from orphans) - (select count(*) from cleared))
                - (select count(*) from suspected), 0))
    ), left_behind as materialized (
        select o.id from orphans o union all select c.id from cleared c union all select s.id from suspected s
        union all select g.id from guarded g
    ), called as materialized (
        select c.id
          from (select distinct e.instance_id from @extschema@.events e
                 where e.seq > after_event and e.seq < after_event + 1000000000000000 and listens_default) n
         cross join lateral (
            select i.id
              from @extschema@.instances i
             where i.id = n.instance_id
               -- `case` hides that the rows are in instances_due: it is no index to find an id in.
               and case when i.owner is null then i.status = 'waiting' end
               and i.queue = 'default' and i.priority = 0 and i.partition = ''
               and exists (select from mine m where m.name = i.workflow and m.version = i.version)
               for update of i skip locked
         ) c
         limit greatest(room - (select count(*) from left_behind), 0)
    ), due as materialized (
        -- In random order of names: the backlog of one workflow must not starve the others.
        select d.id, d.wake_at
          from (select m.name, min(m.since) as since from mine m where listens_default
                 group by m.name order by random()) n
         cross join lateral (
            select i.id, i.wake_at
              from @extschema@.instances i
             where i.workflow = n.name and i.owner is null
               and i.status in ('pending', 'waiting') and i.queue = 'default' and i.priority = 0 and i.partition = ''
               and i.wake_at >= n.since and i.wake_at <= now()
               and exists (select from mine m where m.name = i.workflow
                            and (m.version = i.version or (i.version is null and m.is_current)))
             order by i.wake_at
             limit greatest(room - (select count(*) from left_behind) - (select count(*) from called), 0)
               for update of i skip locked
         ) d
         limit greatest(room - (select count(*) from left_behind) - (select count(*) from called), 0)
    ), taken as (
        update @extschema@.instances i
           set owner = worker,
               status = 'running',
               version = coalesce(i.version, (select m.version from mine m where m.name = i.workflow and m.is_current)),
               started_at = coalesce(i.started_at, case when i.status = 'running' then i.created_at
                                                        when i.line is not null then coalesce(queued_at, now()) else now() end),
               input = case when i.gathered is null or i.started_at is not null then i.input
                            else @extschema@.batch_input(i.id, i.input) end,
               line = null,
               hold = case when i.hold like '["gather%' then null else i.hold end,
               takeovers = i.takeovers + (exists (select from orphans o where o.id = i.id and o.died))::int,
               strikes = i.strikes + (exists (select from orphans o where o.id = i.id and o.died))::int,
               taken_at = now(),
               wake_at = null
         where i.id = any (array(
            select l.id from left_behind l union all select c.id from called c union all select d.id from due d
            union all select q.id from unnest(queued_ids) as q (id)))
        returning i.id, i.workflow, i.version,
                  case when i.input ? '$pgdurable:aside' then @extschema@.whole(i.id, i.input) else i.input end::text as input,
                  (select k.id from @extschema@.instance_keys k where k.instance_id = i.id limit 1) as key,
                  i.started_at, i.deadline, i.takeovers, i.parent, i.labels::text as labels, i.strikes,
                  i.queue
    )
    select t.id, t.workflow, t.version, t.input, t.key, t.started_at, t.deadline, t.takeovers, t.parent, t.labels,
           t.strikes, case when t.strikes > 1 then coalesce(
               (select s.trial from suspected s where s.id = t.id), (select g.trial from guarded g where g.id = t.id)) end,
           (select d.wake_at from due d where d.id = t.id), t.queue
      from taken t
     order by t.id;
    if tell and again is not null then
        id := null;
        woke_at := again;
        return next;
    end if;
end
$$;
