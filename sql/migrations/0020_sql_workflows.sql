-- Workflows in SQL, executed in the database.

alter table @extschema@.workflows add column program jsonb;
alter table @extschema@.workflows add column defined_at timestamptz;
comment on column @extschema@.workflows.definition is 'Of kind sql: the graph that define was given, checked; see docs/sql.md.';
comment on column @extschema@.workflows.program is 'Of kind sql: the definition compiled, for run_batch. Its form may change with a release.';
comment on column @extschema@.workflows.defined_at is 'Of kind sql: when define was last called for it. The version defined last is the current one.';

-- What one call of run_batch is done with is not in here: a row is written when a commit leaves its instance unfinished.
create table @extschema@.sql_runs (
    instance_id  uuid primary key,
    saved_at     timestamptz not null default now(),
    open         int[] not null default '{}',
    state        jsonb not null
) with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 2000
);
comment on table @extschema@.sql_runs is 'Where an instance of a SQL workflow stands that has begun and not ended, and where one failed, for retry.';
comment on column @extschema@.sql_runs.open is 'The numbers (history.seq) of its steps that others run: whoever finds a row of tasks that is not among them deletes it.';

create table @extschema@.tasks (
    instance_id   uuid not null,
    run_at        timestamptz not null default now(),
    created_at    timestamptz not null default now(),
    lease_until   timestamptz,
    owner         bigint,
    timeout_s     float8 check (timeout_s > 0),
    seq           int not null,
    attempt       smallint not null default 1,
    kind          text not null check (kind in ('sql', 'python', 'http', 'external')),
    name          text not null,
    queue         text not null default 'default',
    submitted_by  text not null,
    request       jsonb,
    details       jsonb,
    primary key (instance_id, seq)
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 1000
);
comment on table @extschema@.tasks is
    'Steps of SQL workflows that somebody else runs than who holds the instance. Who has done one deletes it and tells the instance by an event of kind `task`, in one commit.';
comment on column @extschema@.tasks.owner is 'The worker that has taken it (workers.id), until lease_until. Null: nobody has.';
comment on column @extschema@.tasks.request is 'What is to be done, by kind.';
comment on column @extschema@.tasks.details is 'Of its last heartbeat.';
create index tasks_due on @extschema@.tasks (kind, queue, run_at) where owner is null;
create index tasks_leased on @extschema@.tasks (lease_until) where owner is not null;
