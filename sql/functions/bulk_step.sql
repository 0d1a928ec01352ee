-- One small step of an operation on many instances: looks at some from id `since` up to below `before`, in order of id,
-- and carries it out on those that fit.
--
-- `operation`: cancel, terminate, pause, resume, retry, fork or delete. It passes over rows that somebody holds, and
-- takes no lock that a worker waits for, so work goes on beside it. Each step is a transaction of its own to the caller,
-- who may stop after any; done again, it finds nothing left to do on those it had done.
-- `fits` (each may be missing): ids (array of texts), status (array), workflow, version, queue, labels (an object they
-- contain), error (the last part of its type's name), parent (a uuid), finished_before (a time).
-- `options`: reason of cancel and terminate; version, input, from_event and suffix of fork (the copies' ids are the
-- originals' with the suffix, so that a fork done twice is one).
-- `dry`: only counts.
-- `security definer`: whoever may execute it needs no right to the tables, and reaches what it may see.
-- Returns: the last id looked at (null: there were none), how many were looked at, how many it was carried out on, how
-- many of those that fit had nothing to be done (they had ended, say), and those that somebody held.
-- Raises: PGD05 an operation or filter that there is not; PGD09 delete of instances that have not ended.
create or replace function @extschema@.bulk_step(
    operation text, since uuid, before uuid, fits jsonb default '{}', options jsonb default '{}',
    most int default 200, dry boolean default false)
returns table (last uuid, looked int, done int, idle int, busy uuid[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set enable_sort = off  -- where statistics are old the planner would read and sort all ids instead of walking along them
as $$
declare
    most_looked constant int := 10 * most;
    ended constant text[] := array['completed', 'failed', 'cancelled', 'timed_out'];
    could constant text[] := case operation
        when 'cancel' then array['pending', 'running', 'waiting', 'paused']
        when 'terminate' then array['pending', 'running', 'waiting', 'paused']
        when 'pause' then array['pending', 'running', 'waiting']
        when 'resume' then array['paused', 'running', 'waiting']
        when 'retry' then array['failed', 'timed_out', 'paused']
        when 'fork' then array['pending', 'running', 'waiting', 'paused', 'completed', 'failed', 'cancelled', 'timed_out']
        when 'delete' then array['completed', 'failed', 'cancelled', 'timed_out'] end;
    unknown text;
    statuses text[];
    wanted uuid[];
    chosen uuid[];
    one uuid;
    row record;
    mine boolean;
    held boolean;
    acted boolean;
begin
    select k into unknown from jsonb_object_keys(fits) k
     where k not in ('ids', 'status', 'workflow', 'version', 'queue', 'labels', 'error', 'parent', 'finished_before')
     limit 1;
    if could is null or unknown is not null then
        raise exception using errcode = 'PGD05',
            message = case when could is null then format('there is no operation %L', operation)
                           else format('there is no filter %L', unknown) end,
            hint = 'Operations: cancel, terminate, pause, resume, retry, fork, delete. Filters: ids, status, workflow, '
                   'version, queue, labels, error, parent, finished_before.';
    end if;
    statuses := case when fits ? 'status' then array(select jsonb_array_elements_text(fits -> 'status')) end;
    if operation = 'delete' and not has_table_privilege(@extschema@.caller(), '@extschema@.instances', 'update') then
        raise exception using errcode = 'insufficient_privilege',
            message = format('role %s may not delete instances', @extschema@.caller()),
            hint = 'Administrators may: see docs/operations.md.';
    end if;
    mine := (select c.relrowsecurity from pg_class c where c.oid = '@extschema@.instances'::regclass)
            and not has_table_privilege(@extschema@.caller(), '@extschema@.instances', 'update');
    if fits ? 'ids' then
        wanted := array(select f.id from (select @extschema@.find_instance(k) as id
                                            from jsonb_array_elements_text(fits -> 'ids') k) f
                         where f.id >= since and f.id < before order by 1 limit most_looked);
    elsif statuses <@ array['paused', 'failed', 'cancelled', 'timed_out'] then
        -- These few have an index of their own.
        wanted := array(
            select t.id from unnest(statuses) as s (status)
             cross join lateral (
                select i.id from @extschema@.instances i
                 where i.status = s.status and i.status in ('paused', 'failed', 'cancelled', 'timed_out')
                   and i.id >= since and i.id < before
                 order by i.id limit most_looked) t
             order by 1 limit most_looked);
    else
        wanted := array(select i.id from @extschema@.instances i
                         where i.id >= since and i.id < before order by i.id limit most_looked);
    end if;
    looked := cardinality(wanted);
    last := wanted[looked];
    chosen := array(
        select i.id from @extschema@.instances i
         where i.id = any (wanted)
           and (statuses is null or i.status = any (statuses))
           and (not fits ? 'workflow' or i.workflow = fits ->> 'workflow')
           and (not fits ? 'version' or i.version = fits ->> 'version')
           and (not fits ? 'queue' or i.queue = fits ->> 'queue')
           and (not fits ? 'labels' or i.labels @> (fits -> 'labels'))
           and (not fits ? 'error' or split_part(reverse(i.error ->> 'type'), '.', 1) = reverse(fits ->> 'error'))
           and (not fits ? 'parent' or i.parent = (fits ->> 'parent')::uuid)
           and (not fits ? 'finished_before' or i.finished_at < (fits ->> 'finished_before')::timestamptz)
           and (not mine or i.submitted_by = @extschema@.caller())
         order by i.id
         limit most + 1);
    if cardinality(chosen) > most then
        chosen := chosen[1:most];
        last := chosen[most];
        looked := array_position(wanted, last);
    end if;
    done := 0;
    idle := 0;
    busy := '{}';
    foreach one in array chosen loop
        -- A row of nobody's, or of an ended worker's, is locked before it is touched, and passed over where somebody has.
        select i.status, i.owner into row from @extschema@.instances i
         where i.id = one
           and (i.owner is null or i.owner < 0
                or exists (select from @extschema@.workers w where w.id = i.owner and w.state in ('dead', 'stopped')))
           for update skip locked;
        held := not found;
        if held then
            select i.status, i.owner into row from @extschema@.instances i where i.id = one;
            continue when not found;
        end if;
        if not row.status = any (could) then
            idle := idle + 1;
            continue;
        end if;
        if dry then
            acted := operation <> 'resume' or row.status = 'paused'
                or exists (select from @extschema@.events e where e.instance_id = one and e.kind = 'pause');
        elsif held and (row.owner is null or row.owner < 0) and operation <> 'fork' then
            busy := busy || one;
            continue;
        elsif operation = 'cancel' then
            acted := @extschema@.cancel_instance(one, options ->> 'reason');
        elsif operation = 'terminate' then
            acted := @extschema@.terminate_instance(one, options ->> 'reason');
        elsif operation = 'pause' then
            acted := @extschema@.pause_instance(one);
        elsif operation = 'resume' then
            acted := @extschema@.resume_instance(one);
        elsif operation = 'retry' then
            acted := @extschema@.retry_instance(one);
        elsif operation = 'delete' then
            acted := @extschema@.delete_instance(one);
        else
            acted := @extschema@.fork(
                one::text, (options ->> 'from_event')::int, options ->> 'version', options -> 'input',
                coalesce((select k.id from @extschema@.instance_keys k where k.instance_id = one limit 1), one::text)
                || coalesce(options ->> 'suffix', '-fork')) is not null;
        end if;
        done := done + acted::int;
        idle := idle + (not acted)::int;
    end loop;
    return next;
end
$$;
