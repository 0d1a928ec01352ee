-- What workers ask to keep the tables in order, beside the hot path.

-- name: make_partitions
select @extschema@.make_partitions(), now()

-- name: partitions_until
select max(p.until), now() from @extschema@.history_partitions p where p.until < now() + interval '2 years'

-- name: partition_of
select p.name from @extschema@.history_partitions p
 where (p.lower is null or %s::uuid >= p.lower) and %s::uuid < p.upper and not p.detaching

-- name: make_partition_of
select @extschema@.make_partitions(%s::uuid)

-- name: pause_uncovered
update @extschema@.instances
   set status = 'paused', owner = null,
       error = jsonb_build_object('type', 'PgDurableError', 'message', %s::text, 'hint', %s::text)
 where id = %s and owner = %s
