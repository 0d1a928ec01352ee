-- Dead rows of the tables that change, and when they were last vacuumed. Behind dead rows lies whatever is looked for.
create or replace view @extschema@.dead_rows as
select c.relname::text as name, coalesce(s.n_live_tup, 0) as live, coalesce(s.n_dead_tup, 0) as dead,
       greatest(s.last_vacuum, s.last_autovacuum) as vacuumed_at,
       not coalesce(c.reloptions && array['autovacuum_enabled=false', 'autovacuum_enabled=off'], false)
           and current_setting('autovacuum')::boolean and current_setting('track_counts')::boolean as autovacuum
  from pg_catalog.pg_class c
  left join pg_catalog.pg_stat_all_tables s on s.relid = c.oid
 where c.relnamespace = '@extschema@'::regnamespace
   and c.relname in ('instances', 'events', 'workers', 'instance_keys', 'fences');
