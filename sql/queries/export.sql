-- What `pgdurable export` reads.

-- name: instance
select i.id, (select k.id from @extschema@.instance_keys k where k.instance_id = i.id limit 1) as key,
       i.workflow, i.version, i.status, i.created_at, i.started_at, i.finished_at,
       @extschema@.whole(i.id, i.input)::text, @extschema@.whole(i.id, i.output)::text, i.error::text
  from @extschema@.instances i
 where i.id = %s

-- name: history
select h.event_id, h.kind, h.seq, h.name, h.attempt, h.fingerprint,
       @extschema@.whole(h.instance_id, h.payload)::text, h.error::text, h.recorded_at
  from @extschema@.history h
 where h.instance_id = %s and h.event_id > %s
 order by h.event_id
 limit 1000
