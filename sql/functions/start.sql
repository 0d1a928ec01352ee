-- Starts an instance of a workflow, in the caller's transaction: it exists when that commits.
--
-- Arguments: workflow name; input as a JSON object by parameter name (or an array of positional arguments);
-- `id` makes the start idempotent: the same id again gives the same instance and starts nothing; `instance` is the new
-- instance's uuid, for clients that have to know it before (a UUIDv7 of now; see new_id): where it exists already nothing
-- is started, so a start whose answer was lost can be sent again.
-- `queue` may have limits (set_queue); within `partition`, and in a queue without any, the lower `priority` goes first.
-- `dedup`: while an instance of the queue that was started with this key lives, it is given and nothing is started.
-- `security definer`: whoever may execute it needs no right to the tables. `submitted_by` is the caller, always.
-- Locks: with `id` or `dedup`, the new key's index entry until the caller commits.
-- Returns: `id`, or the instance's uuid as text.
-- Raises: PGD04 the id, or dedup's key, belongs to another workflow; PGD05 the id or the input is not one.
create or replace function @extschema@.start(
    workflow text,
    input jsonb default '{}',
    id text default null,
    version text default null,
    queue text default 'default',
    priority int default 0,
    delay interval default null,
    labels jsonb default null,
    instance uuid default null,
    dedup text default null,
    partition text default null)
returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    new_id uuid := coalesce(instance, @extschema@.new_id());
    there record;
    held text := case when dedup is not null then jsonb_build_array('dedup', dedup)::text end;
    queued boolean;
begin
    if workflow is null or workflow = '' then
        raise exception using errcode = 'PGD05', message = 'start needs the name of a workflow',
            hint = 'select distinct name from @extschema@.workflows lists those that workers have registered.';
    end if;
    if queue = 'default' then
        -- A workflow in SQL may have a queue of its own; see define.
        queue := coalesce((select w.policies ->> 'queue' from @extschema@.workflows w
                            where w.name = start.workflow and w.kind = 'sql'
                              and w.version = coalesce(start.version, w.version)
                            order by w.defined_at desc nulls last limit 1), queue);
    end if;
    queued := queue <> 'default' or priority <> 0 or coalesce(partition, '') <> '';
    if octet_length(workflow) > 512 or octet_length(version) > 512 or octet_length(queue) > 512
       or octet_length(partition) > 512 then
        raise exception using errcode = 'PGD05',
            message = 'a workflow, version, queue or partition has at most 512 bytes', hint = 'Choose a shorter name.';
    end if;
    if octet_length(dedup) not between 1 and 512 or (dedup is not null and id is not null) then
        raise exception using errcode = 'PGD05',
            message = 'dedup takes a key of 1 to 512 bytes, and no id beside it',
            hint = 'An id is taken for as long as its instance is kept, a key for as long as the instance lives. Choose one.';
    end if;
    if jsonb_typeof(input) not in ('object', 'array') or input is null then
        raise exception using errcode = 'PGD05',
            message = format('the input of workflow %L is a JSON %s', workflow, coalesce(jsonb_typeof(input), 'null')),
            detail = 'Expected an object by parameter name, or an array of positional arguments.',
            hint = 'For example: select @extschema@.start(''checkout'', ''{"order": "o-1"}'').';
    end if;
    if id is not null then
        if octet_length(id) not between 1 and 512 then
            raise exception using errcode = 'PGD05',
                message = format('an id has 1 to 512 bytes, this one has %s', octet_length(id)),
                hint = 'Choose a shorter id, or leave it out and keep the uuid that start returns.';
        end if;
        insert into @extschema@.instance_keys (id, instance_id) values (start.id, new_id)
            on conflict do nothing;
        if not found then
            select i.workflow, @extschema@.hidden(i.submitted_by) as hidden into there
              from @extschema@.instance_keys k join @extschema@.instances i on i.id = k.instance_id
             where k.id = start.id;
            if there.hidden then
                raise exception using errcode = 'PGD04',
                    message = format('id %L is taken by an instance that you may not see', id),
                    hint = 'Choose another id: ids are shared by all who use this namespace.';
            end if;
            if there.workflow is distinct from start.workflow then
                raise exception using errcode = 'PGD04',
                    message = format('id %L is an instance of workflow %L, not of %L', id, there.workflow, workflow),
                    hint = 'Choose another id for this start.';
            end if;
            -- What is there may wait for a synchronous standby still. Having written to the log, this transaction waits too.
            perform pg_logical_emit_message(true, 'pgdurable', '');
            return id;
        end if;
    end if;
    loop
        insert into @extschema@.instances
            (id, workflow, version, status, queue, priority, wake_at, submitted_by, input, labels, partition, hold, line)
        values (new_id, start.workflow, start.version, 'pending', start.queue, start.priority,
                now() + coalesce(delay, interval '0'), @extschema@.caller(),
                case when pg_column_size(start.input) > 1000 then @extschema@.put_aside(new_id, start.input)
                     else start.input end,
                start.labels,
                coalesce(start.partition, ''), held,
                case when queued and coalesce(delay, interval '0') <= interval '0' then start.priority end)
        on conflict do nothing;
        exit when found or dedup is null;
        -- This start has been sent before; or another instance holds the key, unless it has just ended.
        exit when exists (select from @extschema@.instances i where i.id = new_id);
        select i.id, i.workflow, @extschema@.hidden(i.submitted_by) as hidden into there
          from @extschema@.instances i
         where i.queue = start.queue and i.hold = held
           and i.status in ('pending', 'running', 'waiting', 'paused');
        continue when not found;
        if there.hidden or there.workflow <> start.workflow then
            raise exception using errcode = 'PGD04',
                message = format('key %L of queue %L is held by an instance of %s', dedup, queue,
                    case when there.hidden then 'somebody else' else format('workflow %L', there.workflow) end),
                hint = 'Choose another key, or wait for its end.';
        end if;
        if pg_column_size(start.input) > 1000 then
            delete from @extschema@.payloads p where p.instance_id = new_id;  -- nobody has that id
        end if;
        -- What is there may wait for a synchronous standby still. Having written to the log, this transaction waits too.
        perform pg_logical_emit_message(true, 'pgdurable', '');
        return there.id::text;
    end loop;
    perform pg_notify(@extschema@.channel(), 'due');
    return coalesce(id, new_id::text);
end
$$;
