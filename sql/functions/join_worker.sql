-- Enters a new worker incarnation.
-- Incarnations that ended over a day ago and own nothing are forgotten here, where new ones come from: every
-- claim looks at all that ended. A forgotten one stays fenced off, for want of a row.
-- `marked`: whether a session of its own will mark its presence by a lock; others believe an absence only then.
-- `queues`: those it listens to; null: all.
-- Returns: its id, unique for ever in this namespace.
create or replace function @extschema@.join_worker(
    name text, workflows jsonb, lease interval, marked boolean default true, queues text[] default null)
returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    delete from @extschema@.workers w
     where w.id in (
        select o.id from @extschema@.workers o
         where o.ended_at < now() - interval '1 day'
           and not exists (select from @extschema@.instances i where i.owner in (o.id, -o.id))
         limit 1000
           for update skip locked);
    with entered as (
        insert into @extschema@.workers (name, workflows, lease_until, marked, queues)
        values (name, workflows, now() + lease, marked, queues)
        returning id
    )
    insert into @extschema@.fences (worker) select e.id from entered e
    returning worker
$$;
