-- The bank's tables, and what the run's own triggers write down about who wrote what. `@` is the library's schema,
-- `#` the bank's. Statements are separated by lines of two dashes.

create schema #
--
create table #.accounts (id int primary key, balance bigint not null)
--
-- No unique constraint: an effect that happens twice must show, not fail.
create table #.ledger (
    token text not null, entry text not null, source int not null, target int not null, cents int not null,
    at timestamptz not null default clock_timestamp())
--
-- One sequence for everything audited: what one transaction did before another one could go on has the smaller number.
create sequence #.position
--
-- History rows: under which transaction and by which process, which worker's fence that transaction held (null: none),
-- and who owned the instance.
create table #.writes (
    position bigint, xid xid8, process text, fenced bigint, instance_id uuid, event_id int, owner bigint)
--
-- Changes of an instance's owner or status.
create table #.tenures (
    position bigint, xid xid8, process text, fenced bigint, instance_id uuid,
    old_owner bigint, owner bigint, old_status text, status text, version text)
--
-- Workers that joined and ended, and what the transaction that ended one could see: everything the worker ever wrote
-- must be visible there.
create table #.incarnations (
    position bigint, xid xid8, seen pg_snapshot, worker bigint, process text, state text, successor bigint)
--
-- How long a takeover lingers with the fence in its hands. Seconds.
create table #.linger (seconds float8 not null)
--
insert into #.linger values (0)
--
create function #.fence_held() returns bigint language sql volatile as $$
    select min(l.objid::bigint)
      from pg_locks l
     where l.pid = pg_backend_pid() and l.locktype = 'advisory' and l.granted
       and l.classid = @.lock_class(0)::oid and l.objsubid = 2 and l.mode = 'ShareLock'
$$
--
-- Who this session belongs to. A session in which workflows in SQL run is the pump of its backend, whatever its
-- application_name says of the step that runs.
create function #.process() returns text language sql volatile as $$
    select case when current_setting('pgdurable.pump_name', true) <> '' then 'pump ' || pg_backend_pid()
                else current_setting('application_name') end
$$
--
create function #.note_writes() returns trigger language plpgsql as $$
declare
    held bigint := #.fence_held();
begin
    insert into #.writes
    select nextval('#.position'), pg_current_xact_id(), #.process(), held,
           f.instance_id, f.event_id, (select i.owner from @.instances i where i.id = f.instance_id)
      from fresh f;
    return null;
end
$$
--
create trigger chaos_writes after insert on @.history referencing new table as fresh
    for each statement execute function #.note_writes()
--
create function #.note_starts() returns trigger language plpgsql as $$
declare
    held bigint := #.fence_held();
begin
    insert into #.tenures
    select nextval('#.position'), pg_current_xact_id(), #.process(), held,
           f.id, null, f.owner, null, f.status, f.version
      from fresh f;
    return null;
end
$$
--
create trigger chaos_starts after insert on @.instances referencing new table as fresh
    for each statement execute function #.note_starts()
--
create function #.note_tenures() returns trigger language plpgsql as $$
declare
    held bigint := #.fence_held();
begin
    insert into #.tenures
    select nextval('#.position'), pg_current_xact_id(), #.process(), held,
           f.id, s.owner, f.owner, s.status, f.status, f.version
      from fresh f join stale s on s.id = f.id
     where s.owner is distinct from f.owner or s.status <> f.status;
    return null;
end
$$
--
create trigger chaos_tenures after update on @.instances referencing old table as stale new table as fresh
    for each statement execute function #.note_tenures()
--
create function #.note_incarnation() returns trigger language plpgsql as $$
begin
    if new.state = 'dead' then
        perform pg_sleep(l.seconds) from #.linger l where l.seconds > 0;
    end if;
    insert into #.incarnations
    values (nextval('#.position'), pg_current_xact_id(), pg_current_snapshot(), new.id, new.name, new.state,
            new.successor);
    return null;
end
$$
--
create trigger chaos_incarnations after insert or update of state on @.workers
    for each row execute function #.note_incarnation()
--
-- Where more instances of a queue were held at once than its settings allow. Whoever takes one holds the queue's line, so
-- this sees all that are held.
create table #.excess (position bigint, queue text, what text, n bigint, most int)
--
create function #.note_excess() returns trigger language plpgsql as $$
begin
    insert into #.excess
    select nextval('#.position'), q.name, h.what, h.n, h.most
      from @.queues q
     cross join lateral (
        select 'all workers' as what, count(*) as n, q.concurrency as most
          from @.instances i
         where i.queue = q.name and i.queue <> 'default' and i.owner is not null and i.status in ('pending', 'running')
        union all
        select 'worker ' || i.owner, count(*), q.worker_concurrency
          from @.instances i
         where i.queue = q.name and i.queue <> 'default' and i.owner is not null and i.status in ('pending', 'running')
         group by i.owner
        union all
        select 'partition ' || i.partition, count(*), q.partition_concurrency
          from @.instances i
         where i.queue = q.name and i.queue <> 'default' and i.owner is not null and i.status in ('pending', 'running')
         group by i.partition
     ) h
     where h.n > h.most;
    return null;
end
$$
--
create trigger chaos_excess after update of owner on @.instances
    for each statement execute function #.note_excess()
