-- Who keeps vacuum from removing dead rows of this database, longest first: sessions with an old snapshot, prepared
-- transactions, replication slots, standbys with feedback. `seconds` is null where PostgreSQL does not know or not tell.
create or replace view @extschema@.held_back as
select b.kind, b.name, extract(epoch from now() - b.since)::float8 as seconds, age(b.xmin) as xids, b.hint
  from (
    select 'session'::text as kind,
           format('%s (%s)', a.pid, coalesce(nullif(a.application_name, ''), a.backend_type)) as name,
           a.xact_start as since, coalesce(a.backend_xmin, a.backend_xid) as xmin,
           format('select pg_terminate_backend(%s)', a.pid) as hint
      from pg_catalog.pg_stat_activity a
     where coalesce(a.backend_xmin, a.backend_xid) is not null and a.pid <> pg_backend_pid()
       and (a.datname = current_database() or a.backend_type = 'walsender')
       and a.backend_type not in ('autovacuum worker', 'autovacuum launcher')
    union all
    select 'prepared transaction', p.gid, p.prepared, p.transaction, format('rollback prepared %L', p.gid)
      from pg_catalog.pg_prepared_xacts p
     where p.database = current_database()
    union all
    select 'replication slot', s.slot_name::text, null, s.xmin, format('select pg_drop_replication_slot(%L)', s.slot_name)
      from pg_catalog.pg_replication_slots s
     where s.xmin is not null
  ) b
 order by 4 desc;
