-- What passes between an instance and the outside: published state, updates and their replies, streams, queries.

create table @extschema@.states (
    instance_id  uuid not null,
    key          text not null,
    place        int not null,
    set_at       timestamptz not null default now(),
    value        jsonb not null,
    primary key (instance_id, key)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);
comment on table @extschema@.states is 'What instances publish: the current value under each key. What it was before is in history.';
comment on column @extschema@.states.place is 'history.seq of the row that set it.';

create table @extschema@.updates (
    instance_id   uuid not null,
    key           uuid not null,
    requested_at  timestamptz not null default now(),
    answered_at   timestamptz,
    name          text not null,
    status        text not null default 'requested' check (status in
        ('requested', 'accepted', 'completed', 'failed', 'rejected')),
    requested_by  text not null default current_user,
    result        jsonb,
    error         jsonb,
    primary key (instance_id, key)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);
comment on table @extschema@.updates is 'Requests to running instances and their replies, kept as long as the instance.';
comment on column @extschema@.updates.key is 'Chosen by the sender: the same key again is the same request.';

create table @extschema@.stream_items (
    instance_id  uuid not null,
    position     int not null,
    writer       int not null,
    n            int not null,
    attempt      smallint,
    written_at   timestamptz not null default now(),
    stream       text not null,
    kind         text not null default 'item' check (kind in ('item', 'end', 'void')),
    item         jsonb,
    primary key (instance_id, stream, position)
) with (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05);
comment on table @extschema@.stream_items is 'What instances and their steps write to streams, in order of position.';
comment on column @extschema@.stream_items.writer is 'history.seq of the step, or of the workflow''s own write.';
comment on column @extschema@.stream_items.n is 'The place among its writer''s items: a step that runs again replaces its items one by one.';
comment on column @extschema@.stream_items.kind is 'item, end (nobody reads on), or void (of an attempt that failed, and the one that succeeded wrote fewer).';
-- By which a writer finds what it has written before.
create unique index stream_items_writer on @extschema@.stream_items (instance_id, writer, stream, n);

-- Questions are gone with the server, and their askers ask again.
create unlogged table @extschema@.queries (
    key          uuid primary key,
    instance_id  uuid not null,
    asked_at     timestamptz not null default now(),
    taken_at     timestamptz,
    answered_at  timestamptz,
    asked_by     text not null default current_user,
    name         text not null,
    input        jsonb not null,
    answer       jsonb,
    error        jsonb
) with (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
comment on table @extschema@.queries is 'Questions to instances under way to whoever can answer, and answers under way back.';
