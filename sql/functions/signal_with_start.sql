-- Sends a signal to the instance with this id, and starts that instance first where there is none: both or neither, in the
-- caller's transaction. Two at once make one instance, which gets both signals, in the order of their commits.
--
-- Arguments: as those of `start` and `signal`; `key` makes it safe to send again: the same key within an hour sends no
-- second signal. `meant` (for clients that encrypt for one instance): where the instance with this id is another one,
-- nothing is done, and the caller sees that from what is returned.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Locks: the key of a new instance, and that of the signal, until the caller commits.
-- Returns: the instance's uuid.
-- Raises: PGD03 the instance has ended; PGD04 the id is an instance of another workflow; PGD05 no id, no name.
create or replace function @extschema@.signal_with_start(
    workflow text,
    input jsonb default '{}',
    id text default null,
    signal text default null,
    payload jsonb default 'null',
    key uuid default null,
    version text default null,
    queue text default 'default',
    priority int default 0,
    delay interval default null,
    labels jsonb default null,
    instance uuid default null,
    meant uuid default null)
returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid;
begin
    if id is null then
        raise exception using errcode = 'PGD05', message = 'signal_with_start needs an id',
            hint = 'The id says which instance is meant: an existing one gets the signal, else one is started.';
    end if;
    if meant is not null and meant is distinct from instance then
        select k.instance_id into target from @extschema@.instance_keys k where k.id = signal_with_start.id;
        if target is distinct from meant then
            return target;
        end if;
    end if;
    perform @extschema@.start(
        workflow, input, id => signal_with_start.id, version => signal_with_start.version, queue => signal_with_start.queue,
        priority => signal_with_start.priority, delay => signal_with_start.delay, labels => signal_with_start.labels,
        instance => signal_with_start.instance);
    select k.instance_id into target from @extschema@.instance_keys k where k.id = signal_with_start.id;
    if meant is not null and target is distinct from meant then
        return target;
    end if;
    perform @extschema@.signal(signal_with_start.id, signal, payload, key => signal_with_start.key);
    return target;
end
$$;
