-- Starts many instances with user-chosen ids in one call, for the engine and client libraries.
--
-- Arguments are parallel arrays, one element per start, ordered by id by the caller (one lock order).
-- `worker` null: the instances are pending; else they are running and owned by that worker, under its fence.
-- Returns: one row per element, in order: its position, the instance and its workflow where this call made it,
-- whether it did, and the transaction's time. For an id that was there already the instance is null: this
-- statement's snapshot may be older than it, the caller reads it with the next statement (keys_there).
create or replace function @extschema@.start_keyed(
    worker bigint, keys text[], ids uuid[], workflows text[], versions text[], inputs text[],
    queues text[], delays float8[])
returns table (place int, instance_id uuid, created boolean, workflow text, at timestamptz)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if worker is not null then
        perform @extschema@.fence(worker);
    end if;
    return query
    with asked as materialized (
        select u.n::int as n, u.key, u.id, u.workflow, u.version, u.input::jsonb as input, u.queue, u.delay
          from unnest(keys, ids, workflows, versions, inputs, queues, delays) with ordinality
               as u (key, id, workflow, version, input, queue, delay, n)
    ), entered as (
        insert into @extschema@.instance_keys as k (id, instance_id)
        select a.key, a.id from asked a order by a.key
        on conflict do nothing
        returning k.id, k.instance_id
    ), made as (
        insert into @extschema@.instances
            (id, workflow, version, status, queue, owner, started_at, wake_at, input)
        select a.id, a.workflow, a.version,
               case when worker is null or a.delay > 0 then 'pending' else 'running' end, a.queue,
               case when a.delay > 0 then null else worker end,
               case when worker is null or a.delay > 0 then null else now() end,
               case when worker is null or a.delay > 0 then now() + make_interval(secs => coalesce(a.delay, 0)) end,
               case when pg_column_size(a.input) > 1000 then @extschema@.put_aside(a.id, a.input) else a.input end
          from asked a join entered e on e.instance_id = a.id
        returning 1
    )
    select a.n, a.id, true, a.workflow, now()
      from asked a
     where exists (select from entered e where e.instance_id = a.id)
    union all
    select a.n, null::uuid, false, null::text, now()
      from asked a
     where not exists (select from entered e where e.instance_id = a.id)
       -- What is there may wait for a synchronous standby still. Having written to the log, this transaction waits too.
       and (select pg_logical_emit_message(true, 'pgdurable', '')) is not null
     order by 1;
end
$$;
