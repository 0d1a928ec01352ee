-- Asks an instance for an update: its handler of that name is to run, in the instance's own order. The reply comes into
-- `updates` under (instance_id, key).
--
-- `security definer`: whoever may execute it needs no right to the tables. `requested_by` is the caller.
-- Arguments: `input` is an array of positional arguments, or an object by parameter name. `key`: the same key again is
-- the same request, and nothing is sent.
-- Locks: the request's index entry until the caller commits.
-- Returns: the instance's uuid and the request's key.
-- Raises: PGD02 no such instance; PGD03 it has ended; PGD05 no name, or the key is that of another update.
create or replace function @extschema@.request_update(id text, name text, input jsonb default '[]', key uuid default null)
returns table (instance_id uuid, update_key uuid)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    before text;
begin
    instance_id := @extschema@.need_instance(id);
    update_key := coalesce(key, gen_random_uuid());
    if name is null or octet_length(name) not between 1 and 512 then
        raise exception using errcode = 'PGD05',
            message = format('an update of %L needs a name of 1 to 512 bytes', id),
            hint = 'The name is that of a handler of the workflow.';
    end if;
    insert into @extschema@.updates (instance_id, key, name, requested_by)
    values (request_update.instance_id, update_key, request_update.name, @extschema@.caller())
    on conflict do nothing;
    if not found then
        select u.name into before from @extschema@.updates u
         where u.instance_id = request_update.instance_id and u.key = update_key;
        if before <> name then
            raise exception using errcode = 'PGD05',
                message = format('key %s of instance %L is that of an update %L, not %L', update_key, id, before, name),
                hint = 'Give each request a key of its own; the same key only to send the same request again.';
        end if;
        -- What is there may wait for a synchronous standby still. Having written to the log, this waits too.
        perform pg_logical_emit_message(true, 'pgdurable', '');
        return next;
        return;
    end if;
    select i.status into state from @extschema@.instances i where i.id = request_update.instance_id;
    if state in ('completed', 'failed', 'cancelled', 'timed_out') then
        raise exception using errcode = 'PGD03',
            message = format('instance %L has ended (%s) and takes no more updates', id, state),
            hint = 'Read what it left: its result, its published state, or a query.';
    end if;
    insert into @extschema@.events (instance_id, kind, name, sent_by, payload)
    values (request_update.instance_id, 'update', request_update.name, @extschema@.caller(),
            jsonb_build_object('input', coalesce(input, '[]'), 'key', update_key));
    perform pg_notify(@extschema@.channel(), 'event');
    return next;
end
$$;
