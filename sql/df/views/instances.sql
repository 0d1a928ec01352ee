-- The instances of who asks, as df.start made them; all of them for who may write instances.
create or replace view df.instances with (security_barrier) as
select r.id, r.label, '00000000'::text as root_node,
       case when i.status in ('completed', 'cancelled') then i.status
            when i.status in ('failed', 'timed_out') then 'failed'
            when exists (select from @extschema@.events e where e.instance_id = i.id and e.kind in ('cancel', 'terminate'))
                 or (i.status <> 'pending'
                     and exists (select from @extschema@.history h where h.instance_id = i.id and h.kind = 'cancel'))
                then 'cancelled'
            when i.started_at is null and i.status = 'pending' then 'pending' else 'running' end as status,
       (select o.oid::regrole from pg_roles o where o.rolname = r.submitted_by) as submitted_by, null::text as database,
       r.created_at, coalesce(i.finished_at, i.taken_at, i.started_at, i.created_at) as updated_at,
       case when i.status = 'completed' then i.finished_at end as completed_at
  from df.runs r
  join @extschema@.instances i on i.id = r.instance_id
 where df._sees(r.submitted_by);
