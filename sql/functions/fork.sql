-- Starts a copy of an instance that goes on from a place in its history, with other code or another input if wanted.
-- The original is left as it is, running or not.
--
-- Everything before event `from_event` is copied: checkpoints, signals, state and streams. Steps that were under way
-- there run anew. `from_event` null: from the step that made it fail, as retry would, where it failed or timed out;
-- else from the start. The copy draws new random numbers from there on, and keeps what was drawn before.
--
-- Arguments: `version` and `input` are the original's unless given; with another version its code has to fit the copied
-- history, else it is paused. `new_id` makes it idempotent, as in start; `instance` as in start.
-- `security definer`: whoever may execute it needs no right to the tables. `submitted_by` is the caller.
-- Locks: with `new_id`, its index entry until the caller commits.
-- Returns: `new_id`, or the new instance's uuid as text.
-- Raises: PGD02 no such instance; PGD04 the new id belongs to another workflow; PGD05 an argument is none, or a child that was
-- started before `from_event` still runs.
create or replace function @extschema@.fork(
    id text, from_event int default null, version text default null, input jsonb default null,
    new_id text default null, queue text default null, instance uuid default null)
returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
    copy uuid := coalesce(instance, @extschema@.new_id());
    source record;
    place int;
    later int;
    roots jsonb;
begin
    select i.* into source from @extschema@.instances i where i.id = target;
    if octet_length(version) not between 1 and 512 or octet_length(queue) not between 1 and 512 then
        raise exception using errcode = 'PGD05', message = 'a version or queue has 1 to 512 bytes',
            hint = 'Choose a shorter name.';
    end if;
    if jsonb_typeof(input) not in ('object', 'array') then
        raise exception using errcode = 'PGD05',
            message = format('the input for a fork of %L is a JSON %s', id, jsonb_typeof(input)),
            detail = 'Expected an object by parameter name, or an array of positional arguments.',
            hint = 'Leave it out to fork with the input of the original.';
    end if;
    if from_event < 1 then
        raise exception using errcode = 'PGD05',
            message = format('events are counted from 1: there is no event %s to fork %L from', from_event, id),
            hint = format('select event_id, kind, name from @extschema@.history where instance_id = %L order by 1', target);
    end if;
    if new_id is not null then
        if octet_length(new_id) not between 1 and 512 then
            raise exception using errcode = 'PGD05',
                message = format('an id has 1 to 512 bytes, this one has %s', octet_length(new_id)),
                hint = 'Choose a shorter id, or leave it out and keep the uuid that fork returns.';
        end if;
        insert into @extschema@.instance_keys (id, instance_id) values (new_id, copy) on conflict do nothing;
        if not found then
            if not exists (select from @extschema@.instance_keys k join @extschema@.instances i on i.id = k.instance_id
                            where k.id = new_id and i.workflow = source.workflow
                              and not @extschema@.hidden(i.submitted_by)) then
                raise exception using errcode = 'PGD04',
                    message = format('id %L is taken by an instance of another workflow', new_id),
                    hint = 'Choose another id for this fork.';
            end if;
            perform pg_logical_emit_message(true, 'pgdurable', '');
            return new_id;
        end if;
    end if;
    -- The event after the last one that is copied: from there on the copy is itself.
    select case when from_event is null and source.status not in ('failed', 'timed_out') then 1
                else least(from_event, coalesce(max(h.event_id), 0) + 1) end into place
      from @extschema@.history h where h.instance_id = target;
    perform @extschema@.check_fork(target, place, from_event is null and source.status in ('failed', 'timed_out'),
                                   fork.input is not null or fork.version <> source.version);
    -- Its random numbers and its input would be those of another run.
    select max(h.event_id) into later from @extschema@.history h
     where h.instance_id = target and h.event_id < place and h.kind = 'continued';
    if later is not null then
        raise exception using errcode = 'PGD05',
            message = format('instance %L continued as new at event %s, and is forked from its first run only', id, later),
            hint = format('Fork from event %s or before, or start a new instance with the input that event %s holds.',
                          (select min(h.event_id) from @extschema@.history h
                            where h.instance_id = target and h.kind = 'continued'), later);
    end if;
    insert into @extschema@.instances
        (id, workflow, version, status, queue, priority, wake_at, started_at, deadline, submitted_by, input, labels,
         partition)
    values (copy, source.workflow, coalesce(fork.version, source.version), 'pending', coalesce(fork.queue, source.queue),
            source.priority, now(), now(), now() + (source.deadline - source.created_at), @extschema@.caller(),
            case when pg_column_size(fork.input) > 1000 then @extschema@.put_aside(copy, fork.input)
                 else coalesce(fork.input, source.input) end,
            source.labels, source.partition)
    on conflict do nothing;
    if not found then
        return coalesce(new_id, copy::text);
    end if;
    -- Whose random numbers, and whose encrypted values, the copied rows hold: the original's, or of what that was forked from.
    select h.payload -> 'roots' into roots
      from @extschema@.history h where h.instance_id = target and h.event_id = 0 and h.kind = 'forked';
    roots := coalesce(roots, '[]') || jsonb_build_array(jsonb_build_object('instance', target, 'before', place));
    select jsonb_agg(jsonb_build_object('instance', r.instance, 'before', least(r.before, place)) order by r.n) into roots
      from (select u.root ->> 'instance' as instance, (u.root ->> 'before')::int as before, u.n,
                   lag((u.root ->> 'before')::int, 1, 0) over (order by u.n) as since
              from jsonb_array_elements(roots) with ordinality as u (root, n)) r
     where r.since < place;
    insert into @extschema@.history (instance_id, event_id, kind, name, payload)
    select copy, 0, 'forked', id, jsonb_build_object(
        'roots', roots,
        'started_at', coalesce((select h.payload ->> 'started_at' from @extschema@.history h
                                 where h.instance_id = target and h.event_id = 0 and h.kind = 'forked'),
                               to_char(coalesce(source.started_at, source.created_at) at time zone 'UTC',
                                       'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
        'input_of', case when fork.input is null then
            coalesce((select h.payload ->> 'input_of' from @extschema@.history h
                       where h.instance_id = target and h.event_id = 0 and h.kind = 'forked'), target::text) end);
    perform @extschema@.copy_history(target, copy, place);
    perform @extschema@.copy_run(target, copy, place, from_event is null and source.status in ('failed', 'timed_out'));
    perform @extschema@.adopt_children(target, copy);
    if from_event is null and source.status in ('failed', 'timed_out') then
        insert into @extschema@.history (instance_id, event_id, kind, payload)
        select copy, max(h.event_id) + 1, 'retry', jsonb_build_object('by', @extschema@.caller())
          from @extschema@.history h where h.instance_id = copy;
    end if;
    perform pg_notify(@extschema@.channel(), 'due');
    return coalesce(new_id, copy::text);
end
$$;
