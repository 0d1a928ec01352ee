-- Gives a worker the questions it can answer: of instances it holds, from its memory (`held`); of those that nobody holds
-- and whose workflow it has, by replaying them. What its owner has not answered in a while is anybody's.
--
-- Nobody else takes the same for three seconds. Questions older than a minute are dropped: nobody waits for them.
-- Locks: the rows it takes, skipping those that another worker is taking.
create or replace function @extschema@.take_queries(
    worker bigint, names text[], versions text[], is_current boolean[], most int)
returns table (
    key uuid, instance_id uuid, name text, input text, held boolean, workflow text, version text,
    started_with text, id text, started_at timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from @extschema@.queries q where q.asked_at < now() - interval '1 minute';
    return query
    with seen as materialized (
        select o.key, i.id, o.name, o.input, i.owner is not distinct from worker as held, i.workflow,
               coalesce(i.version, m.version) as version, i.input as started_with,
               coalesce(i.started_at, case when i.status in ('running', 'paused') then i.created_at end) as started_at
          from @extschema@.queries o
          join @extschema@.instances i on i.id = o.instance_id
          left join lateral (
            select u.version
              from unnest(names, versions, is_current) as u (name, version, is_current)
             where u.name = i.workflow and (u.version = i.version or (i.version is null and u.is_current))
             limit 1) m on true
         where o.answered_at is null and (o.taken_at is null or o.taken_at < now() - interval '3 seconds')
           and (i.owner = worker
                or (m.version is not null and (i.owner is null or o.asked_at < now() - interval '2 seconds')))
         order by o.asked_at
         limit most
           for update of o skip locked
    ), taken as (
        update @extschema@.queries q set taken_at = now() from seen s where q.key = s.key
    )
    select s.key, s.id, s.name, s.input::text, s.held, s.workflow, s.version, @extschema@.whole(s.id, s.started_with)::text,
           (select k.id from @extschema@.instance_keys k where k.instance_id = s.id limit 1), s.started_at
      from seen s;
end
$$;
