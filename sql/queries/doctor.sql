-- What `pgdurable doctor` and `pgdurable show` ask. Reads only.
--
-- A worker lives when it has not ended and its lease has not run out, by the database's clock.

-- name: clock
select clock_timestamp() as now

-- name: server
select current_setting('server_version_num')::int as version_num, current_setting('server_version') as version,
       pg_is_in_recovery() as in_recovery,
       current_setting('default_transaction_read_only')::boolean as read_only,
       current_setting('fsync')::boolean as fsync,
       current_setting('synchronous_commit') as synchronous_commit,
       current_setting('full_page_writes')::boolean as full_page_writes,
       current_setting('autovacuum')::boolean and current_setting('track_counts')::boolean as autovacuum,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int as slots,
       -- Not pg_stat_activity, which hides from a plain role what the sessions of others are.
       (select sum(numbackends)::int from pg_stat_database) as connections,
       current_user as role

-- name: privileges
select t.name, t.privilege
  from (values ('workflows', 'insert'), ('instances', 'insert'), ('instances', 'update'), ('instance_keys', 'insert'),
               ('history', 'insert'), ('history', 'select'), ('events', 'insert'), ('events', 'delete'),
               ('workers', 'insert'), ('workers', 'update')) as t (name, privilege)
 where not has_table_privilege('@extschema@.' || t.name, t.privilege)

-- name: status_counts
select status, count(*) as instances from @extschema@.instances group by status

-- name: troubled_counts
select status, count(*) as instances
  from @extschema@.instances
 where status in ('paused', 'failed', 'cancelled', 'timed_out')
 group by status

-- name: workers
select w.id, w.name, w.state, w.workflows, w.started_at, w.ended_at, w.lease_until,
       extract(epoch from w.lease_until - now())::float8 as lease_left,
       w.state in ('alive', 'draining') and w.lease_until > now() as living,
       w.stats ->> 'trouble'::text as trouble,
       coalesce((w.stats ->> 'callers_waiting'::text)::int, 0) as callers_waiting,
       coalesce((w.stats ->> 'backlog'::text)::int, 0) as backlog
  from @extschema@.workers w
 where w.state in ('alive', 'draining')
 order by w.id

-- name: worker
select w.id, w.name, w.state, w.ended_at, w.lease_until,
       w.state in ('alive', 'draining') and w.lease_until > now() as living
  from @extschema@.workers w
 where w.id = %s

-- name: capable_workers
select w.id, w.name
  from @extschema@.workers w
 where w.state in ('alive', 'draining') and w.lease_until > now()
   and exists (select from jsonb_array_elements(w.workflows) as has (entry)
                where has.entry ->> 'name'::text = %s::text
                  and (%s::text is null or has.entry ->> 'version'::text = %s::text))
 order by w.id

-- name: orphans
select i.workflow, i.version, count(*) as instances, min(w.name) as worker,
       exists (select from @extschema@.workers v, jsonb_array_elements(v.workflows) as has (entry)
                where v.state in ('alive', 'draining') and v.lease_until > now()
                  and has.entry ->> 'name'::text = i.workflow
                  and (i.version is null or has.entry ->> 'version'::text = i.version)) as rescued
  from @extschema@.instances i
  left join @extschema@.workers w on w.id = i.owner
 where i.owner > 0
   and i.status not in ('completed', 'failed', 'cancelled', 'timed_out', 'paused')
   and not coalesce(w.state in ('alive', 'draining') and w.lease_until > now(), false)
 group by i.workflow, i.version
 order by count(*) desc
 limit 20

-- name: suspects
select count(*) as instances, max(i.strikes) as strikes
  from @extschema@.instances i
 where i.owner < 0 and i.strikes > 1

-- name: quarantined
select count(*) as instances
  from @extschema@.instances i
 where i.status = 'paused' and i.error ->> 'type'::text = 'pgdurable.errors.Quarantined'

-- name: settings
select s.name, s.value, s.source, s.problem
  from @extschema@.settings s
 where s.problem is not null or s.source <> 'default'
 order by s.name

-- name: retention
select s.retention is null as off,
       extract(epoch from s.retention)::float8 as retention,
       (select count(*) from @extschema@.workflows w where w.policies ? 'retention') as own,
       old.oldest, old.overdue
  from (select @extschema@.setting('retention')::interval as retention offset 0) s
 cross join lateral (
    -- Of the 10,000 that were started first.
    select extract(epoch from now() - min(i.finished_at))::float8 as oldest,
           extract(epoch from now() - min(i.finished_at + @extschema@.keep_for(w.policies, s.retention)))::float8 as overdue
      from (select o.workflow, o.version, o.status, o.finished_at from @extschema@.instances o order by o.id limit 10000) i
      left join @extschema@.workflows w on w.name = i.workflow and w.version = i.version
     where i.status in ('completed', 'failed', 'cancelled', 'timed_out')
 ) old

-- name: longest_history
-- Of 10,000 instances that workers hold and 10,000 that wait: which has come furthest. Gaps count as rows. The orders
-- are those of indexes that hold no ended instances.
select i.id, i.workflow, coalesce(l.event_id, 0) as rows
  from ((select o.id, o.workflow from @extschema@.instances o
          where o.owner is not null order by o.owner limit 10000)
        union all
        (select o.id, o.workflow from @extschema@.instances o
          where o.owner is null and o.status in ('pending', 'waiting') order by o.workflow, o.wake_at limit 10000)) i
  left join lateral (
    select h.event_id from @extschema@.history h where h.instance_id = i.id order by h.event_id desc limit 1
 ) l on true
 order by 3 desc
 limit 1

-- name: partitions
select count(*) as partitions, sum(p.bytes)::float8 as bytes,
       extract(epoch from max(p.until) filter (where p.until < now() + interval '2 years') - now())::float8 as ahead,
       (select count(*) from @extschema@.spent_partitions()) as spent
  from @extschema@.history_partitions p

-- name: old_events
select count(*) as events, pg_catalog.count(distinct e.instance_id) as instances,
       extract(epoch from now() - min(e.created_at))::float8 as oldest
  from @extschema@.events e
  join @extschema@.instances i on i.id = e.instance_id
 where e.created_at < now() - interval '1 minute'
   and i.status not in ('completed', 'failed', 'cancelled', 'timed_out')

-- name: held_back
select h.kind, h.name, h.seconds, h.xids, h.hint
  from @extschema@.held_back h
 where coalesce(h.seconds, 0.0::float8) >= 600.0::float8 or h.xids >= 1000000
 order by h.xids desc
 limit 5

-- name: dead_rows
select d.name, d.live, d.dead, d.autovacuum,
       extract(epoch from now() - d.vacuumed_at)::float8 as since
  from @extschema@.dead_rows d
 order by d.dead desc

-- name: deaf_queues
select s.queue, sum(s.due)::bigint as due, extract(epoch from now() - min(s.oldest_due))::float8 as oldest,
       bool_or(s.paused) as paused, max(s.listeners) as listeners,
       bool_or(exists (select from @extschema@.workers w, jsonb_array_elements(w.workflows) as has (entry)
                        where w.state = 'alive' and w.lease_until > now()
                          and has.entry ->> 'name'::text = s.workflow)) as has_workers
  from @extschema@.queue_stats s
 where s.due > 0 and (s.listeners = 0 or s.paused)
 group by s.queue
 order by 2 desc
 limit 20
