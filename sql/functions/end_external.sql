-- What complete_step and fail_step share: an external step ends, and its instance hears of it when the caller commits.
--
-- Arguments: `step` is its name, `seq` its number (claim_external gives both); `attempt`, where given, is the only attempt
-- that may end it. `ending` is {"output": ...} or {"error": {...}}.
-- Locks: the task's row, so whoever ends the same step waits for the caller. Nobody else does.
-- Returns: true; false when that step (that attempt of it) had ended before, so nothing was done.
-- Raises: PGD02 no such instance; PGD03 it has ended; PGD05 several steps have the name; PGD11 no such step waits; PGD12
-- another holder has it by now.
create or replace function @extschema@.end_external(id text, step text, ending jsonb, attempt int, seq int)
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
    what text := coalesce(format('%L', step), format('number %s', seq));
    places int[];
    ended record;
    there record;
    state text;
    before int;
begin
    if step is null and seq is null then
        raise exception using errcode = 'PGD05', message = format('which step of instance %L has ended?', id),
            hint = 'Give its name, or its number as claim_external gives it in seq.';
    end if;
    select coalesce(array_agg(t.seq order by t.seq), '{}') into places
      from (select o.* from @extschema@.tasks o where o.instance_id = target offset 0) t  -- by its key, whatever is known
     where t.kind = 'external'
       and (step is null or t.name = step) and (end_external.seq is null or t.seq = end_external.seq)
       and @extschema@.task_wanted(target, t.seq);
    if cardinality(places) > 1 then
        raise exception using errcode = 'PGD05',
            message = format('%s steps of instance %L are named %L', cardinality(places), id, step),
            detail = format('Their numbers: %s.', array_to_string(places[1:50], ', ')),
            hint = 'Say which by seq => number; claim_external gives it.';
    end if;
    delete from @extschema@.tasks t
     where t.instance_id = target and t.seq = places[1] and t.kind = 'external'
       and (end_external.attempt is null or t.attempt = end_external.attempt)
       and @extschema@.task_wanted(target, t.seq)
    returning t.seq, t.attempt, t.name into ended;
    if found then
        insert into @extschema@.events (instance_id, kind, name, sent_by, payload)
        values (target, 'task', ended.name, @extschema@.caller(),
                jsonb_build_object('seq', ended.seq, 'attempt', ended.attempt) || ending);
        perform pg_notify(@extschema@.channel(), 'event');
        return true;
    end if;
    -- The same may have been asked before, its answer lost.
    select e.attempt into before
      from (select (v.payload ->> 'attempt')::int as attempt
              from @extschema@.events v
             where v.instance_id = target and v.kind = 'task' and (step is null or v.name = step)
               and (end_external.seq is null or (v.payload ->> 'seq')::int = end_external.seq)
            union all
            select h.attempt
              from @extschema@.history h
             where h.instance_id = target and h.kind in ('step', 'attempt') and (step is null or h.name = step)
               and (end_external.seq is null or h.seq = end_external.seq)) e
     where end_external.attempt is null or e.attempt = end_external.attempt
     limit 1;
    if found then
        -- That it ended may wait for a synchronous standby still: this waits too.
        perform pg_logical_emit_message(true, 'pgdurable', '');
        return false;
    end if;
    select i.status into state from @extschema@.instances i where i.id = target;
    if state in ('completed', 'failed', 'cancelled', 'timed_out') then
        raise exception using errcode = 'PGD03',
            message = format('instance %L has ended (%s); nobody waits for step %s', id, state, what),
            hint = 'Roll back what you have done for it.';
    end if;
    select t.attempt, t.holder into there
      from @extschema@.tasks t
     where t.instance_id = target and t.seq = places[1] and t.kind = 'external';
    if there.attempt is not null or end_external.attempt is not null then
        raise exception using errcode = 'PGD12',
            message = format('attempt %s of step %s of instance %L is over', attempt, what, id),
            detail = case when there.attempt is null then 'Nobody waits for it any more.'
                          else format('Attempt %s is under way%s.', there.attempt, ' at ' || there.holder) end,
            hint = 'Its lease ran out, or the step was cancelled. Roll back what you have done; send heartbeats, or ask '
                'for a longer lease.';
    end if;
    raise exception using errcode = 'PGD11',
        message = format('no step %s of instance %L waits for its end', what, id),
        detail = coalesce((
            select 'These do: ' || string_agg(format('%L (%s)', t.name, t.seq), ', ' order by t.seq) || '.'
              from (select n.name, n.seq from @extschema@.tasks n
                     where n.instance_id = target and n.kind = 'external' and @extschema@.task_wanted(target, n.seq)
                     order by n.seq limit 20) t), 'None does now.'),
        hint = 'It begins to wait when the workflow comes to it. What may come earlier is a signal.';
end
$$;
