-- Sets the limits of a queue; workers keep them from then on, those that have begun already go on. A queue that has none
-- need not be set.
--
-- Arguments: null leaves what is set, 0 takes the limit away. `concurrency`: how many instances workers may hold at once
-- (one that only waits holds nothing once it has left memory), `worker_concurrency`: how many each of them may hold;
-- `rate_count` within any `rate_seconds`: how many may begin. `partition_...`: the same of each partition. `paused`: none
-- is let go, those that run go on.
-- Raises: PGD05 the queue `default`, which has no limits, or a limit that is none.
create or replace function @extschema@.set_queue(
    queue text,
    concurrency int default null,
    worker_concurrency int default null,
    rate_count int default null,
    rate_seconds float8 default null,
    partition_concurrency int default null,
    partition_worker_concurrency int default null,
    partition_rate_count int default null,
    partition_rate_seconds float8 default null,
    paused boolean default null)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if queue is null or queue = 'default' or octet_length(queue) not between 1 and 512 then
        raise exception using errcode = 'PGD05',
            message = format('queue %L can have no limits', queue),
            detail = 'The queue default is the one without any; other names have 1 to 512 bytes.',
            hint = 'Start the instances in a queue of another name: queue => ''mail''.';
    end if;
    if least(concurrency, worker_concurrency, rate_count, partition_concurrency, partition_worker_concurrency,
             partition_rate_count) < 0
       or least(rate_seconds, partition_rate_seconds) < 0 or greatest(rate_seconds, partition_rate_seconds) > 2678400
       or (coalesce(rate_count, 0) > 0) is distinct from (coalesce(rate_seconds, 0) > 0)
       or (coalesce(partition_rate_count, 0) > 0) is distinct from (coalesce(partition_rate_seconds, 0) > 0) then
        raise exception using errcode = 'PGD05',
            message = format('the limits of queue %L do not fit', queue),
            detail = 'Limits are above 0 (0 takes one away); a rate has a count and up to 2,678,400 seconds, both.',
            hint = format('For example: select @extschema@.set_queue(%L, rate_count => 100, rate_seconds => 60).', queue);
    end if;
    insert into @extschema@.queues as q
        (name, paused, concurrency, worker_concurrency, rate_count, rate_seconds,
         partition_concurrency, partition_worker_concurrency, partition_rate_count, partition_rate_seconds)
    values (set_queue.queue, coalesce(set_queue.paused, false), nullif(set_queue.concurrency, 0),
            nullif(set_queue.worker_concurrency, 0), nullif(set_queue.rate_count, 0), nullif(set_queue.rate_seconds, 0),
            nullif(set_queue.partition_concurrency, 0), nullif(set_queue.partition_worker_concurrency, 0),
            nullif(set_queue.partition_rate_count, 0), nullif(set_queue.partition_rate_seconds, 0))
    on conflict (name) do update
       set paused = coalesce(set_queue.paused, q.paused),
           concurrency = nullif(coalesce(set_queue.concurrency, q.concurrency), 0),
           worker_concurrency = nullif(coalesce(set_queue.worker_concurrency, q.worker_concurrency), 0),
           rate_count = nullif(coalesce(set_queue.rate_count, q.rate_count), 0),
           rate_seconds = nullif(case when set_queue.rate_count is null then q.rate_seconds
                                      else coalesce(set_queue.rate_seconds, 0) end, 0),
           partition_concurrency = nullif(coalesce(set_queue.partition_concurrency, q.partition_concurrency), 0),
           partition_worker_concurrency =
               nullif(coalesce(set_queue.partition_worker_concurrency, q.partition_worker_concurrency), 0),
           partition_rate_count = nullif(coalesce(set_queue.partition_rate_count, q.partition_rate_count), 0),
           partition_rate_seconds = nullif(case when set_queue.partition_rate_count is null then q.partition_rate_seconds
                                                else coalesce(set_queue.partition_rate_seconds, 0) end, 0),
           changed_at = clock_timestamp();
    perform pg_notify(@extschema@.channel(), 'queues');
end
$$;
