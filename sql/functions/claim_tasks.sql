-- Gives a worker Python steps and HTTP requests of SQL workflows to run. Each is the worker's when the caller commits,
-- so it is known before anything leaves the worker; see finish_tasks.
--
-- Arguments: `steps` are the names of the steps that the worker has; `http`: whether it makes requests; `room`: at most so
-- many; `listens`: the queues it listens to, null: all.
-- Locks: the worker's fence; the rows it takes, skipping what others take.
-- Returns: the tasks; then, when there was room for more, one without an id, whose `run_at` is when the next is due.
-- Raises: PGD01 when the worker itself was taken over.
create or replace function @extschema@.claim_tasks(
    worker bigint, steps text[], http boolean, room int, listens text[] default null)
returns table (
    id uuid, seq int, kind text, name text, attempt int, timeout_s float8, request text, details text, run_at timestamptz,
    workflow text, key text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    at timestamptz;
    n int;
begin
    perform @extschema@.fence(worker);
    at := clock_timestamp();
    return query
    with found as materialized (
        select c.place
          from unnest(steps) as s (name)
         cross join lateral (
            select t.ctid as place
              from @extschema@.tasks t
             where t.kind = 'python' and t.owner is null and t.name = s.name and t.run_at <= at
               and (listens is null or t.queue = any (listens))
               and @extschema@.task_wanted(t.instance_id, t.seq, true)
             order by t.run_at
             limit room
               for update of t skip locked
         ) c
         limit room
    ), requests as materialized (
        select t.ctid as place
          from @extschema@.tasks t
         where http and t.kind = 'http' and t.owner is null and t.run_at <= at
           and (listens is null or t.queue = any (listens))
           and @extschema@.task_wanted(t.instance_id, t.seq, true)
         order by t.run_at
         limit greatest(room - (select count(*) from found), 0)
           for update of t skip locked
    ), taken as (
        update @extschema@.tasks t
           set owner = worker, taken_at = at
         where t.ctid = any (array(select f.place from found f union all select r.place from requests r))
        returning t.instance_id, t.seq, t.kind, t.name, t.attempt, t.timeout_s, t.request, t.details, t.run_at
    )
    select t.instance_id, t.seq, t.kind, t.name, t.attempt::int, t.timeout_s,
           @extschema@.whole(t.instance_id, t.request)::text, t.details::text, t.run_at,
           (select i.workflow from @extschema@.instances i where i.id = t.instance_id),
           (select k.id from @extschema@.instance_keys k where k.instance_id = t.instance_id limit 1)
      from taken t
     order by t.run_at;
    get diagnostics n = row_count;
    if n < room then
        id := null;
        select min(d.run_at) into run_at
          from (select p.run_at
                  from unnest(steps) as s (name)
                 cross join lateral (
                    select t.run_at from @extschema@.tasks t
                     where t.kind = 'python' and t.owner is null and t.name = s.name and t.run_at > at
                     order by t.run_at limit 1) p
                union all
                (select t.run_at from @extschema@.tasks t
                  where http and t.kind = 'http' and t.owner is null and t.run_at > at
                  order by t.run_at limit 1)) d;
        if run_at is not null then
            return next;
        end if;
    end if;
end
$$;
