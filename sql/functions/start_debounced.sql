-- Starts an instance once nobody has asked for it for a while: until it begins, the same call again replaces its input
-- and puts its beginning off, by no more than `longest` after the first call. In the caller's transaction.
--
-- Arguments: as start(). `key`: what calls belong together, within workflow, version, queue and partition. `wait`: the
-- while; `longest`: null for ten times that. `for_instance` (for clients that encrypt the input for one instance): only
-- this one's input is replaced; where another holds the key null is returned, and find_debounced says which.
-- `security definer`: whoever may execute it needs no right to the tables. `submitted_by` is the first caller.
-- Locks: the key's index entry, or the waiting instance, until the caller commits.
-- Returns: the instance's uuid as text. The same call sent twice does what it does once.
-- Raises: PGD04 the instance is somebody else's; PGD05 something does not fit.
create or replace function @extschema@.start_debounced(
    workflow text,
    input jsonb,
    key text,
    wait interval,
    longest interval default null,
    version text default null,
    queue text default 'default',
    priority int default 0,
    labels jsonb default null,
    instance uuid default null,
    partition text default null,
    for_instance boolean default false)
returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    new_id uuid := coalesce(instance, @extschema@.new_id());
    bound interval := coalesce(longest, 10 * wait);
    held text := @extschema@.gathering_key(workflow, version, partition, key);
    there record;
begin
    if octet_length(workflow) not between 1 and 512 or octet_length(version) > 512 or octet_length(queue) > 512
       or octet_length(partition) > 512 or octet_length(key) not between 1 and 512 or workflow is null or key is null then
        raise exception using errcode = 'PGD05',
            message = 'start_debounced needs the name of a workflow and a key, each of 1 to 512 bytes',
            hint = 'So have a version, queue or partition at most 512 bytes.';
    end if;
    if wait is null or wait <= interval '0' or bound < wait then
        raise exception using errcode = 'PGD05',
            message = format('a start is put off by a while above 0, and at most by longest: found %s and %s', wait, bound),
            hint = 'For example: wait => ''5 seconds'', longest => ''1 minute''.';
    end if;
    if jsonb_typeof(input) not in ('object', 'array') or input is null then
        raise exception using errcode = 'PGD05',
            message = format('the input of workflow %L is a JSON %s', workflow, coalesce(jsonb_typeof(input), 'null')),
            hint = 'Expected an object by parameter name, or an array of positional arguments.';
    end if;
    loop
        insert into @extschema@.instances
            (id, workflow, version, status, queue, priority, wake_at, submitted_by, input, labels, partition, hold)
        values (new_id, start_debounced.workflow, start_debounced.version, 'pending', start_debounced.queue,
                start_debounced.priority, now() + wait, @extschema@.caller(),
                case when pg_column_size(start_debounced.input) > 1000 then @extschema@.put_aside(new_id, start_debounced.input)
                     else start_debounced.input end,
                start_debounced.labels, coalesce(start_debounced.partition, ''), held)
        on conflict do nothing;
        if found then
            perform pg_notify(@extschema@.channel(), 'due');
            return new_id::text;
        end if;
        select i.id, @extschema@.hidden(i.submitted_by) as hidden into there
          from @extschema@.instances i
         where i.queue = start_debounced.queue and i.hold = held and i.status in ('pending', 'paused')
           for update;
        if not found then
            -- This call has been sent before, and what it started has begun since.
            if exists (select from @extschema@.instances i where i.id = new_id) then
                perform pg_logical_emit_message(true, 'pgdurable', '');
                return new_id::text;
            end if;
            continue;  -- it has just begun: the key is free
        end if;
        if there.hidden then
            raise exception using errcode = 'PGD04',
                message = format('key %L is held by an instance that you may not see', key), hint = 'Choose another key.';
        end if;
        if there.id <> new_id and pg_column_size(start_debounced.input) > 1000 then
            delete from @extschema@.payloads p where p.instance_id = new_id;  -- nobody has that id
        end if;
        if for_instance and there.id <> new_id then
            return null;
        end if;
        -- It has not begun: what is kept apart of it is the input that is replaced now.
        delete from @extschema@.payloads p where p.instance_id = there.id;
        -- Only ever later: looks for due instances begin where earlier ones have left nothing.
        update @extschema@.instances i
           set input = case when pg_column_size(start_debounced.input) > 1000
                            then @extschema@.put_aside(i.id, start_debounced.input) else start_debounced.input end,
               labels = coalesce(start_debounced.labels, i.labels), line = null,
               wake_at = greatest(i.wake_at, least(now() + wait, i.created_at + bound))
         where i.id = there.id;
        return there.id::text;
    end loop;
end
$$;
