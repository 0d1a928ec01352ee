-- Removes what no rate of a queue asks for any more, nor will when the clock has been set back by a minute.
-- Returns: how many rows.
create or replace function @extschema@.forget_queue_starts(queue text) returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    longest float8;
    removed int;
begin
    select greatest(
               (select greatest(q.rate_seconds, q.partition_rate_seconds)
                  from @extschema@.queues q where q.name = forget_queue_starts.queue),
               (select max(p.rate_seconds)
                  from @extschema@.queue_partitions p where p.queue = forget_queue_starts.queue))
      into longest;
    delete from @extschema@.queue_starts s
     where s.queue = forget_queue_starts.queue
       and s.at < now() - make_interval(secs => coalesce(longest, 0)) - interval '1 minute';
    get diagnostics removed = row_count;
    return removed;
end
$$;
