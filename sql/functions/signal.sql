-- Sends a signal to an instance, in the caller's transaction. Signals of one sender arrive in order, each once,
-- also when sent before the workflow waits for them or before its first step.
--
-- `security definer`: whoever may execute it needs no right to the tables. `sent_by` is the caller.
-- Arguments: `key` makes it safe to send again, for a sender that does not know what became of the first time: the
-- same key within an hour sends nothing, also when the signal has been consumed or the instance has ended since.
-- Locks: with `key`, the key's index entry until the caller commits. Else none that another transaction would wait for
-- (it only inserts), however long the caller stays open.
-- Returns: the signal's place in the event queue; null when it had been sent before.
-- Raises: PGD02 no such instance; PGD03 it has ended; PGD05 no name.
create or replace function @extschema@.signal(id text, name text, payload jsonb default 'null', key uuid default null)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
    state text;
    place bigint;
begin
    if name is null or octet_length(name) not between 1 and 512 then
        raise exception using errcode = 'PGD05',
            message = format('a signal to %L needs a name of 1 to 512 bytes', id),
            hint = 'The name is the one the workflow waits for.';
    end if;
    if key is not null then
        insert into @extschema@.signal_keys (key) values (signal.key) on conflict do nothing;
        if not found then
            -- What is there may wait for a synchronous standby still. Having written to the log, this waits too.
            perform pg_logical_emit_message(true, 'pgdurable', '');
            return null;
        end if;
    end if;
    select i.status into state from @extschema@.instances i where i.id = target;
    if state in ('completed', 'failed', 'cancelled', 'timed_out') then
        raise exception using errcode = 'PGD03',
            message = format('instance %L has ended (%s) and takes no more signals', id, state),
            hint = 'Start another instance, or send the signal before the workflow ends.';
    end if;
    insert into @extschema@.events (instance_id, kind, name, sent_by, payload)
    values (target, 'signal', signal.name, @extschema@.caller(),
            coalesce(case when pg_column_size(payload) > 1000 then @extschema@.put_aside(target, payload) else payload end, 'null'))
    returning seq into place;
    perform pg_notify(@extschema@.channel(), 'event');
    return place;
end
$$;
