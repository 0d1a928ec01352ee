-- Sets what one partition of a queue has of its own, where the queue says something else of each.
--
-- Arguments: null leaves what is set; 0 takes a limit of its own away, and the queue's holds again. `weight` (1 to 1000,
-- usually 1): its share beside the others that wait. `paused`: none of it is let go.
-- Raises: PGD05 the queue `default`, no name, or a limit that is none.
create or replace function @extschema@.set_queue_partition(
    queue text,
    partition text,
    weight int default null,
    concurrency int default null,
    worker_concurrency int default null,
    rate_count int default null,
    rate_seconds float8 default null,
    paused boolean default null)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if partition is null or octet_length(partition) not between 1 and 512 then
        raise exception using errcode = 'PGD05',
            message = format('%L is no partition', partition), hint = 'A partition''s name has 1 to 512 bytes.';
    end if;
    if weight not between 1 and 1000 or least(concurrency, worker_concurrency, rate_count) < 0
       or rate_seconds not between 0 and 2678400
       or (coalesce(rate_count, 0) > 0) is distinct from (coalesce(rate_seconds, 0) > 0) then
        raise exception using errcode = 'PGD05',
            message = format('the limits of partition %L of queue %L do not fit', partition, queue),
            detail = 'A weight is 1 to 1000, limits are above 0 (0 takes one away); a rate has a count and seconds, both.',
            hint = format('For example: select @extschema@.set_queue_partition(%L, %L, weight => 3).', queue, partition);
    end if;
    perform @extschema@.set_queue(queue);
    insert into @extschema@.queue_partitions as p
        (queue, partition, weight, paused, concurrency, worker_concurrency, rate_count, rate_seconds)
    values (set_queue_partition.queue, set_queue_partition.partition, coalesce(set_queue_partition.weight, 1),
            coalesce(set_queue_partition.paused, false), nullif(set_queue_partition.concurrency, 0),
            nullif(set_queue_partition.worker_concurrency, 0), nullif(set_queue_partition.rate_count, 0),
            nullif(set_queue_partition.rate_seconds, 0))
    on conflict on constraint queue_partitions_pkey do update
       set weight = coalesce(set_queue_partition.weight, p.weight),
           paused = coalesce(set_queue_partition.paused, p.paused),
           concurrency = nullif(coalesce(set_queue_partition.concurrency, p.concurrency), 0),
           worker_concurrency = nullif(coalesce(set_queue_partition.worker_concurrency, p.worker_concurrency), 0),
           rate_count = nullif(coalesce(set_queue_partition.rate_count, p.rate_count), 0),
           rate_seconds = nullif(case when set_queue_partition.rate_count is null then p.rate_seconds
                                      else coalesce(set_queue_partition.rate_seconds, 0) end, 0);
end
$$;
