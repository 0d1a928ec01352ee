-- Schedules: what the clock starts. The table was there, and empty.
--
-- The times of a schedule are computed by workers (cron and zones are Python's there); SQL keeps the text. `next_at` is
-- when a worker has to look; `revision` changes with every write, so a worker that computed on an older state is refused.

alter table @extschema@.schedules
    add column input         jsonb not null default '{}',
    add column submitted_by  text not null default current_user,
    add column created_at    timestamptz not null default now(),
    add column revision      bigint not null default 0,
    add column paused        boolean not null default false,
    add column note          text,
    add column since         timestamptz not null default now(),
    add column tick_at       timestamptz,
    add column last_at       timestamptz,
    add column last_instance uuid,
    add column running       uuid[] not null default '{}',
    add column buffered      timestamptz[] not null default '{}',
    add column requests      jsonb not null default '[]',
    add column started       bigint not null default 0,
    add column skipped       bigint not null default 0,
    add column missed        bigint not null default 0;

alter table @extschema@.schedules set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500);

create index schedules_next on @extschema@.schedules (next_at) where next_at is not null;

comment on column @extschema@.schedules.definition is 'cron and tz, or every_s and anchor, or at; overlap, catch_up_s, jitter_s, pause_on_failure; version, queue, priority, labels.';
comment on column @extschema@.schedules.next_at is 'When a worker looks at it; null: never (it is paused, or over).';
comment on column @extschema@.schedules.revision is 'Goes up with every change.';
comment on column @extschema@.schedules.note is 'Why it is paused.';
comment on column @extschema@.schedules.since is 'Ticks up to here are not its business: when it was made, changed or resumed.';
comment on column @extschema@.schedules.tick_at is 'Its next tick; null: not computed yet, or there is none.';
comment on column @extschema@.schedules.last_at is 'The tick that was started last, and its instance.';
comment on column @extschema@.schedules.running is 'Instances it started that were not seen to have ended.';
comment on column @extschema@.schedules.buffered is 'Ticks that wait for the running instance to end.';
comment on column @extschema@.schedules.requests is 'What was asked for from outside: trigger now, backfill a range.';
comment on column @extschema@.schedules.started is 'How many instances it has started; ticks skipped while one ran; ticks missed while no worker was there.';
