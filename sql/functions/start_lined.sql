-- Starts many instances that stand in line, each with its own workflow, queue, priority and partition, for an engine that
-- gathers what its callers start. Arguments are parallel arrays. An id that is there already is passed over, so a call
-- whose answer was lost can be made again. Returns: how many were started.
create or replace function @extschema@.start_lined(
    ids uuid[], workflows text[], versions text[], inputs text[], queues text[], priorities int[], partitions text[])
returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    started bigint;
begin
    insert into @extschema@.instances (id, workflow, version, status, queue, input, priority, partition, line)
    select u.id, u.workflow, u.version, 'pending', u.queue,
           case when octet_length(u.input) > 4000 then @extschema@.put_aside(u.id, u.input::jsonb) else u.input::jsonb end,
           u.priority, coalesce(u.partition, ''),
           case when u.queue <> 'default' or u.priority <> 0 or u.partition <> '' then u.priority end
      from unnest(ids, workflows, versions, inputs, queues, priorities, partitions)
           as u (id, workflow, version, input, queue, priority, partition)
    on conflict do nothing;
    get diagnostics started = row_count;
    if started < cardinality(ids) then
        -- What is there may wait for a synchronous standby still. Having written to the log, this transaction waits too.
        perform pg_logical_emit_message(true, 'pgdurable', '');
    end if;
    perform pg_notify(@extschema@.channel(), 'due');
    return started;
end
$$;
