-- Queues in which something waits and to which no living worker listens.
create or replace function @extschema@.deaf_queues() returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select q.queue
      from @extschema@.waiting_queues() as q (queue)
     where not exists (
        select from @extschema@.workers w
         where w.state = 'alive' and w.lease_until > now() and (w.queues is null or q.queue = any (w.queues)))
$$;
