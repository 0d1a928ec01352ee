-- Queues with limits, priorities and partitions.
--
-- An instance of the queue `default`, with priority 0 and no partition, is plain: nothing of this concerns it, and it is
-- in none of these indexes. Any other gets a place in its queue's line once it is due (`line`, see line_up), and leaves
-- the line only when claim_queue lets it, which holds the limits.

alter table @extschema@.instances add column partition text not null default '';
alter table @extschema@.instances add column line int;
alter table @extschema@.instances add column hold text;
alter table @extschema@.instances add column gathered int;
comment on column @extschema@.instances.queue is 'The queue it waits in. Every queue but `default` may have limits.';
comment on column @extschema@.instances.priority is 'Within a partition of its queue: the lower goes first.';
comment on column @extschema@.instances.partition is 'Whose share of the queue it takes, for instance a tenant; empty: none.';
comment on column @extschema@.instances.line is
    'Its rank in the line of its queue while it is pending: the priority, or -100000 for one that has begun before. Null: not in line.';
comment on column @extschema@.instances.hold is
    'A key of its queue that no other living instance has: `["dedup", key]` until it ends, `["gather", ...]` until it begins.';
comment on column @extschema@.instances.gathered is 'Of a batch: how many inputs have been gathered. See batch_inputs.';

-- What a worker claims without asking anybody.
drop index if exists @extschema@.instances_due;
create index instances_due on @extschema@.instances (workflow, wake_at)
    where owner is null and status in ('pending', 'waiting') and queue = 'default' and priority = 0 and partition = '';
-- All others that wait: those in line, by the hash of their partition (with an even spread, a random one is easily found);
-- then those that are not in line yet, delayed starts and parked instances, by when they are due. One index for both: each
-- costs every insert and update of a plain instance a look at its condition.
create index instances_queued on @extschema@.instances
    (queue, workflow, (case when line is not null then hashtextextended(partition, 0) end), line, wake_at)
    where owner is null and status in ('pending', 'waiting') and (queue <> 'default' or priority <> 0 or partition <> '');
-- Who holds a slot.
create index instances_slots on @extschema@.instances (queue, partition, owner)
    where queue <> 'default' and owner is not null and status in ('pending', 'running');
create unique index instances_hold on @extschema@.instances (queue, hold)
    where hold is not null and status in ('pending', 'running', 'waiting', 'paused');

alter table @extschema@.queues drop column settings;
alter table @extschema@.queues
    add column concurrency                   int check (concurrency > 0),
    add column worker_concurrency            int check (worker_concurrency > 0),
    add column rate_count                    int check (rate_count > 0),
    add column rate_seconds                  float8 check (rate_seconds > 0 and rate_seconds <= 2678400),
    add column partition_concurrency         int check (partition_concurrency > 0),
    add column partition_worker_concurrency  int check (partition_worker_concurrency > 0),
    add column partition_rate_count          int check (partition_rate_count > 0),
    add column partition_rate_seconds        float8 check (partition_rate_seconds > 0 and partition_rate_seconds <= 2678400),
    add column changed_at                    timestamptz not null default clock_timestamp(),
    add constraint queues_not_default check (name <> 'default' and octet_length(name) between 1 and 512),
    add constraint queues_rate check ((rate_count is null) = (rate_seconds is null)),
    add constraint queues_partition_rate check ((partition_rate_count is null) = (partition_rate_seconds is null));
comment on table @extschema@.queues is 'Flow control per queue; one that is not here has no limits. Changed by set_queue.';
comment on column @extschema@.queues.concurrency is 'How many instances may be held by workers at once, over all of them.';
comment on column @extschema@.queues.worker_concurrency is 'How many one worker may hold at once.';
comment on column @extschema@.queues.rate_count is 'How many may begin within any rate_seconds.';
comment on column @extschema@.queues.partition_concurrency is 'As concurrency, of each partition.';

create table @extschema@.queue_partitions (
    queue               text not null,
    partition           text not null,
    weight              int not null default 1 check (weight between 1 and 1000),
    paused              boolean not null default false,
    concurrency         int check (concurrency > 0),
    worker_concurrency  int check (worker_concurrency > 0),
    rate_count          int check (rate_count > 0),
    rate_seconds        float8 check (rate_seconds > 0 and rate_seconds <= 2678400),
    primary key (queue, partition),
    check ((rate_count is null) = (rate_seconds is null)),
    check (queue <> 'default' and octet_length(partition) between 1 and 512)
);
comment on table @extschema@.queue_partitions is
    'Partitions that differ from what their queue says of each. Changed by set_queue_partition.';

create table @extschema@.queue_starts (
    queue      text not null,
    partition  text not null,
    at         timestamptz not null,
    n          int not null
) with (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
comment on table @extschema@.queue_starts is 'How many instances of queues with a rate have begun when. Kept as long as the rates need it.';
create index queue_starts_at on @extschema@.queue_starts (queue, at);

create table @extschema@.batch_inputs (
    id           uuid primary key,
    instance_id  uuid not null,
    place        int not null,
    created_at   timestamptz not null default now(),
    input        jsonb
);
comment on table @extschema@.batch_inputs is
    'What a batch has gathered before it begins; for an hour longer, so that the same input again adds nothing.';
create index batch_inputs_created on @extschema@.batch_inputs (created_at);
create index batch_inputs_instance on @extschema@.batch_inputs (instance_id, place);

alter table @extschema@.workers add column queues text[];
comment on column @extschema@.workers.queues is 'The queues it listens to; null: all.';

drop function if exists @extschema@.claim(bigint, text[], text[], boolean[], int, int, int, timestamptz[], bigint);

drop function if exists @extschema@.judge(text[], text[], boolean[], int, int);

drop function if exists @extschema@.join_worker(text, jsonb, interval, boolean);

drop function if exists @extschema@.start(text, jsonb, text, text, text, int, interval, jsonb, uuid);

drop function if exists @extschema@.start_many(uuid[], text, text, text, text[]);
