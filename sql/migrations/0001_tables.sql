-- The tables of one namespace. Everything of a namespace lives in its schema; nothing refers across schemas.
--
-- Hot path: `history` is append-only; `instances`, `events` and `workers` are small and mutable.
-- No foreign keys between them: a foreign key would take a row-share lock per transition.
-- Statements stand alone (one command each), so that they also pass through a Citus coordinator.

create table @extschema@.workflows (
    name        text not null,
    version     text not null,
    kind        text not null default 'python' check (kind in ('python', 'sql')),
    definition  jsonb,
    policies    jsonb,
    created_at  timestamptz not null default now(),
    primary key (name, version)
);
comment on table @extschema@.workflows is 'One row per version of each registered workflow.';

create table @extschema@.instances (
    id            uuid primary key,
    created_at    timestamptz not null default now(),
    started_at    timestamptz,
    finished_at   timestamptz,
    wake_at       timestamptz default now(),
    deadline      timestamptz,
    owner         bigint,
    parent        uuid,
    priority      smallint not null default 0,
    takeovers     smallint not null default 0,
    format        smallint not null default 1,
    workflow      text not null,
    version       text,
    status        text not null default 'pending' check (status in
        ('pending', 'running', 'waiting', 'paused', 'completed', 'failed', 'cancelled', 'timed_out')),
    queue         text not null default 'default',
    submitted_by  text not null default current_user,
    input         jsonb not null,
    output        jsonb,
    error         jsonb,
    labels        jsonb
) with (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.05
);
comment on table @extschema@.instances is 'The state of each instance. Only its owner writes it while it has one.';
comment on column @extschema@.instances.version is 'Null until a worker claims the instance: then the version that worker calls current.';
comment on column @extschema@.instances.owner is 'workers.id of the incarnation that holds the instance in memory; null when nobody does.';
comment on column @extschema@.instances.wake_at is 'When an instance without an owner wants to be claimed; null: only an event wakes it.';

-- What a worker claims: pending and parked instances that are due.
create index instances_due on @extschema@.instances (workflow, wake_at)
    where owner is null and status in ('pending', 'waiting');
-- What a worker holds: looked up when it dies.
create index instances_owned on @extschema@.instances (owner) where owner is not null;
-- What people look for.
create index instances_troubled on @extschema@.instances (status, id)
    where status in ('paused', 'failed', 'cancelled', 'timed_out');

create table @extschema@.instance_keys (
    id           text primary key check (octet_length(id) between 1 and 512),
    instance_id  uuid not null
);
comment on table @extschema@.instance_keys is 'User-chosen id of an instance: what makes start(id=...) idempotent.';
create index instance_keys_instance on @extschema@.instance_keys (instance_id);

create table @extschema@.history (
    instance_id  uuid not null,
    recorded_at  timestamptz not null default now(),
    event_id     int not null,
    seq          int,
    fingerprint  int,
    elapsed_ms   real,
    attempt      smallint,
    kind         text not null,
    name         text,
    payload      jsonb,
    error        jsonb,
    primary key (instance_id, event_id)
) with (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
comment on table @extschema@.history is 'Append-only: one row per transition of an instance, in the order its workflow met them.';
comment on column @extschema@.history.event_id is 'Counts up within the instance (gaps allowed); given out by the one owner.';
comment on column @extschema@.history.seq is 'Which command of the workflow this row answers, counted from 0 in the order the code issued them.';
comment on column @extschema@.history.fingerprint is 'CRC-32 of the command''s arguments, compared in replay.';
comment on column @extschema@.history.kind is 'step, attempt (one that failed and is tried again), timer, signal, void (a transaction step that will never commit).';

create table @extschema@.events (
    seq          bigint generated always as identity primary key,
    instance_id  uuid not null,
    created_at   timestamptz not null default now(),
    kind         text not null,
    name         text,
    sent_by      text not null default current_user,
    payload      jsonb
) with (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 2000
);
comment on table @extschema@.events is 'The event queue: what happened to an instance and its owner has not yet moved to history.';
create index events_instance on @extschema@.events (instance_id, seq);

create table @extschema@.workers (
    id           bigint generated always as identity primary key,
    state        text not null default 'alive' check (state in ('alive', 'draining', 'stopped', 'dead')),
    beat         bigint not null default 0,
    lease_until  timestamptz not null,
    started_at   timestamptz not null default now(),
    ended_at     timestamptz,
    successor    bigint,
    name         text not null,
    workflows    jsonb not null default '[]',
    stats        jsonb,
    unique (id, state)  -- makes a change of state, but not a beat, conflict with the row lock of fence()
) with (fillfactor = 50);
comment on table @extschema@.workers is 'One row per worker incarnation. state and lease_until are the fence.';

create table @extschema@.queues (
    name         text primary key,
    paused       boolean not null default false,
    settings     jsonb not null default '{}'
);
comment on table @extschema@.queues is 'Flow control per queue.';

create table @extschema@.schedules (
    name         text primary key,
    workflow     text not null,
    definition   jsonb not null,
    next_at      timestamptz
);
comment on table @extschema@.schedules is 'Workflows started by the clock.';
