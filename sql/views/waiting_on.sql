-- What each instance that has not ended waits for. `what`: `timer`, `signal` and `child` (their name or id in `name`), `retry`,
-- `task` (a step that somebody has to run), `worker` (nobody has claimed it, and it is due), `delay` (it is not due yet),
-- `event` (of a workflow that is not SQL: whatever may come), `resume` (it is paused). `until`: when it goes on anyway.
-- An instance in a worker's memory is not here unless its workflow is in SQL and has written down where it stands.
create or replace view @extschema@.waiting_on as
select i.id as instance_id, i.workflow, i.queue,
       case t.value #>> '{wait,k}' when 'outside' then 'task' else t.value #>> '{wait,k}' end as what,
       case t.value #>> '{wait,k}' when 'signal' then t.value #>> '{wait,name}' when 'child' then t.value #>> '{wait,id}'
            else k.name end as name,
       coalesce(to_timestamp((t.value #>> '{wait,due}')::float8), k.lease_until) as until,
       r.saved_at as since
  from @extschema@.sql_runs r
  join @extschema@.instances i on i.id = r.instance_id and i.status in ('pending', 'running', 'waiting')
 cross join lateral jsonb_each(r.state -> 'threads') t
  left join @extschema@.tasks k on k.instance_id = r.instance_id and k.seq = (t.value #>> '{wait,seq}')::int
 where t.value #> '{wait,got}' is null and t.value #>> '{wait,k}' <> 'join'
union all
select u.id, u.workflow, u.queue, case when u.wake_at is null then 'event' when u.wake_at > now() then
           case when u.status = 'pending' then 'delay' else 'timer' end else 'worker' end,
       null, case when u.wake_at > now() then u.wake_at end, coalesce(u.taken_at, u.created_at)
  from (
    -- One index each, so that what has ended is not read.
    select o.id, o.workflow, o.queue, o.status, o.wake_at, o.taken_at, o.created_at
      from @extschema@.instances o
     where o.owner is null and o.status in ('pending', 'waiting')
       and o.queue = 'default' and o.priority = 0 and o.partition = ''
    union all
    select o.id, o.workflow, o.queue, o.status, o.wake_at, o.taken_at, o.created_at
      from @extschema@.instances o
     where o.owner is null and o.status in ('pending', 'waiting')
       and (o.queue <> 'default' or o.priority <> 0 or o.partition <> '')
  ) u
 where not exists (select from @extschema@.sql_runs r where r.instance_id = u.id)
union all
select p.id, p.workflow, p.queue, 'resume', p.error ->> 'type', null, p.taken_at
  from @extschema@.instances p
 where p.status = 'paused';
