-- Schedules: what a worker asks of those that are due, and what clients ask and change.
--
-- Outside functions no search_path is pinned: see worker.sql.

-- name: due_schedules
-- With the states of the instances that were not seen to have ended: of one that was removed there is none.
select s.name, s.workflow, s.definition::text, s.input::text, s.revision, s.paused, s.since, s.tick_at,
       s.buffered, s.requests::text, s.last_at,
       array(select r.id::text || ' '::text || o.status
               from unnest(s.running) as r (id)
              cross join lateral (select i.status from @extschema@.instances i where i.id = r.id offset 0) o),
       now()
  from @extschema@.schedules s
 where s.next_at <= now() and s.workflow = any (%s::text[])
 order by s.next_at
 limit 100

-- name: keys_taken
select k.id from @extschema@.instance_keys k where k.id = any (%s::text[])

-- name: tick_schedules
select name, made, refused from @extschema@.tick_schedules(%s, %s::jsonb)

-- name: put_schedule
select @extschema@.put_schedule(%s, %s, %s::jsonb, %s::jsonb)

-- name: edit_schedule
select @extschema@.edit_schedule(%s, %s::jsonb, %s::jsonb)

-- name: pause_schedule
select @extschema@.pause_schedule(%s, %s)

-- name: resume_schedule
select @extschema@.resume_schedule(%s)

-- name: trigger_schedule
select @extschema@.trigger_schedule(%s, %s)

-- name: backfill_schedule
select @extschema@.backfill_schedule(%s, %s, coalesce(%s::timestamptz, now()), %s)

-- name: drop_schedule
select @extschema@.drop_schedule(%s)

-- name: list_schedules
select s.name, s.workflow, s.definition::text, s.input::text, s.paused, s.note, s.tick_at, s.next_at, s.last_at,
       (select k.id from @extschema@.instance_keys k where k.instance_id = s.last_instance limit 1) as last_id,
       s.buffered, s.started, s.skipped, s.missed, s.submitted_by, s.created_at, s.requests::text, s.since, now()
  from @extschema@.schedules s
 where %s::text is null or s.name = %s::text
 order by s.name
