-- Attempts that take long, and the turns of steps with a rate limit.

create table @extschema@.attempts (
    instance_id  uuid not null,
    beat_at      timestamptz not null default now(),
    started_at   timestamptz not null,
    worker       bigint not null,
    seq          int not null,
    attempt      smallint not null,
    name         text,
    done         float8,
    total        float8,
    details      jsonb,
    primary key (instance_id, seq)
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 1000
);
comment on table @extschema@.attempts is 'Attempts that have run for a second or more, or have sent a heartbeat. Gone when they end; see the view running_steps.';
comment on column @extschema@.attempts.beat_at is 'When its worker last said something of it.';
comment on column @extschema@.attempts.details is 'Of its last heartbeat; the next attempt gets them if this one is never heard of again.';

create table @extschema@.step_turns (
    step     text not null,
    free_at  timestamptz not null,
    taken    int not null
) with (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 1000
);
create index step_turns_step on @extschema@.step_turns (step, free_at);
comment on table @extschema@.step_turns is 'Turns of steps with a rate_limit that were given out, and when they may be given out again.';

comment on column @extschema@.history.kind is
    'step, attempt (one that failed and is tried again), pending (one that is about to begin), timer, signal, void (a transaction step that will never commit).';
