-- Forgets tasks for which nobody waits: their instance has ended, or given them up. Whoever has one finds out when he ends it, or by a heartbeat.
-- Locks: the rows, skipping those that somebody holds.
create or replace function @extschema@.drop_stale_tasks() returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    delete from @extschema@.tasks t
     where t.ctid = any (array(
        select o.ctid
          from @extschema@.tasks o
         where not @extschema@.task_wanted(o.instance_id, o.seq)
         limit 5000
           for update of o skip locked))
$$;
