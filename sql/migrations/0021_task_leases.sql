-- Steps that run outside the database: who holds one since when, and how long for.

alter table @extschema@.tasks
    add column taken_at timestamptz,
    add column lease_s float8,
    add column holder text;
comment on column @extschema@.tasks.taken_at is 'When the present attempt began; null: nobody has it.';
comment on column @extschema@.tasks.lease_s is 'Of an external one: the seconds its holder asked for, which each heartbeat gives anew.';
comment on column @extschema@.tasks.holder is 'Who claimed an external one, as it called itself.';

-- What may be taken. An external one stays in here while it is held: its run_at is then the end of the lease.
create index tasks_external_named on @extschema@.tasks (queue, name, run_at) where kind = 'external';
create index tasks_python on @extschema@.tasks (name, run_at) where kind = 'python' and owner is null;
create index tasks_http on @extschema@.tasks (run_at) where kind = 'http' and owner is null;
-- Whose holder may be gone.
create index tasks_external_leased on @extschema@.tasks (lease_until) where kind = 'external' and lease_until is not null;
create index tasks_owned on @extschema@.tasks (owner) where owner is not null;
