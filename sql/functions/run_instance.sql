-- Runs one instance of a workflow in SQL from where it stands, inside the caller's transaction, until it ends, waits, or the
-- caller's share of time or steps is over. Called by run_batch, whose transaction holds the fence of `worker`.
--
-- Arguments: `fresh`: nothing has been done in this transaction yet; `careful`: nothing is to share a commit with what may
-- fail at it; `slow`: the nodes known to take long, as keys of an object; `usual`: see usual_policy.
-- Returns: `outcome`: `over`: it is not ours any more (ended, waiting, paused); `more`: it goes on after a commit; `alone`:
-- its next step is to begin right after a commit; `conflict`: as `more`, somebody else was in its way; `stop`: as that, and
-- the caller is asked to end. `steps`: how many it has run. `found_slow`: a node that took long; with a
-- minus before it, one of `slow` that did not.
--
-- Each step runs in a subtransaction of its own (try_step): what fails is undone, alone. Step, checkpoint and state are one
-- commit, the caller's. The instructions are those of compile_node, the state that of run_start.
create or replace function @extschema@.run_instance(
    worker bigint, target uuid, until timestamptz, most bigint, fresh boolean, careful boolean, slow jsonb, usual jsonb,
    out outcome text, out steps int, out found_slow text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    i record;
    st jsonb;
    code jsonb;
    path text;
    runner text;
    handler int;
    seq int;
    ev int := 0;
    rows @extschema@.history[] := '{}';
    -- The thread that runs, and its parts while it does.
    tid text;
    th jsonb;
    pc int;
    last jsonb;
    env jsonb;
    own jsonb;
    att int;
    my_seq int;
    got jsonb;
    alone boolean;
    is_main boolean;
    ins jsonb;
    op text;
    did record;
    limit_s float8;
    later float8;
    kept jsonb;
    -- A copy made by fork: what history holds of it is not run, but given.
    replays boolean := false;
    feed @extschema@.history[];
    fed int := 0;
    done boolean;
begin
    steps := 0;
    select x.workflow, x.version, x.input, x.submitted_by, x.deadline, x.created_at, x.started_at, x.queue, w.program,
           w.policies, r.state, exists (select from @extschema@.events e where e.instance_id = target) as has_events
      into i
      from @extschema@.instances x
      left join @extschema@.workflows w on w.name = x.workflow and w.version = x.version and w.kind = 'sql'
      left join @extschema@.sql_runs r on r.instance_id = x.id
     where x.id = target and x.owner = worker and x.status = 'running';
    if not found then
        outcome := 'over';
        return;
    end if;
    code := i.program -> 'code';
    path := i.program ->> 'path';
    handler := (i.program ->> 'on_error')::int;
    st := i.state;
    if st is null or st ? 'replay' then
        replays := st is not null;
        st := @extschema@.run_start(case when i.input ? '$pgdurable:aside' then @extschema@.whole(target, i.input) else i.input end);
    else
        st := @extschema@.run_again(worker, target, st);
    end if;
    if i.submitted_by <> current_user then
        runner := @extschema@.runner_of(i.submitted_by);
        if runner is null then
            perform @extschema@.run_save(worker, target, st, false);
            perform @extschema@.pause_unrunnable(worker, target, i.submitted_by);
            outcome := 'over';
            return;
        end if;
    end if;
    if i.deadline is null then
        i.deadline := @extschema@.run_deadline(worker, target, i.started_at, (i.policies ->> 'deadline')::float8, usual);
    end if;
    if replays then
        feed := array(select h from @extschema@.history h
                       where h.instance_id = target and h.seq is not null
                         and h.kind in ('step', 'attempt', 'timer', 'signal', 'child', 'child_end') order by h.event_id);
    elsif i.has_events or i.state is not null or i.deadline <= clock_timestamp() then
        st := @extschema@.run_wake(target, st, usual, handler, i.deadline);
        if st ? 'asked' then
            perform @extschema@.run_save(worker, target, st - 'asked', false);
            perform @extschema@.heed(worker, array[target]);
            outcome := 'over';
            return;
        end if;
    end if;
    if i.state is not null or i.has_events then
        select coalesce(max(h.event_id), 0) into ev from @extschema@.history h where h.instance_id = target;
    end if;
    seq := st ->> 'seq';
    env := st -> 'env';

    <<steps>>
    loop
        if tid is null then
            -- A thread that can go on; alone, unless others run beside it or have a task under way.
            select t.key, t.value into tid, th
              from jsonb_each(st -> 'threads') t
             where not t.value ? 'wait' or t.value #> '{wait,got}' is not null
             -- What others have done, in the order in which they did it: so the first of a race wins.
             order by (t.value #>> '{wait,got,n}')::bigint, t.key::int
             limit 1;
            if tid is null then
                if replays then
                    select f.state, f.fed, f.done into st, fed, done from @extschema@.run_feed(target, st, feed, fed, code) f;
                    exit steps when done and st -> 'threads' = '{}';
                    continue steps when not done;
                    -- What has come for it meanwhile is looked at first.
                    st := st || jsonb_build_object('seq', seq, 'env', env);
                    outcome := 'more';
                    exit steps;
                end if;
                kept := @extschema@.run_ready(st);
                exit steps when kept is null;
                st := kept;
                continue steps;
            end if;
            -- One that waits for a time or a signal may be called while a statement of this one runs.
            alone := (select count(*) from jsonb_each(st -> 'threads') t
                       where t.value #>> '{wait,k}' is distinct from 'join') = 1;
            pc := th ->> 'pc';
            last := th -> 'last';
            own := th -> 'env';
            att := coalesce(th ->> 'att', '1');
            my_seq := th ->> 'seq';
            got := th #> '{wait,got}';
            is_main := tid = '0' and not st ? 'ending';
        end if;
        ins := code -> pc;
        op := ins ->> 'o';
        if ins ? 'n' and not op in ('try', 'loop', 'fork', 'undo', 'break', 'value') then
            -- A command: what history keeps a row of.
            if my_seq is null then
                my_seq := seq;
                seq := seq + 1;
            end if;
            limit_s := null;
            if op = 'sql' or op = 'atomic' then
                limit_s := coalesce((ins ->> 'timeout')::float8, (usual ->> 'step_timeout')::float8);
            end if;
            if got is not null and got ? 'what' then
                if got ->> 'what' = 'task' then
                    -- Attempts whose holders died were counted where the step was taken.
                    att := greatest(att, (got ->> 'attempt')::int);
                end if;
                did := @extschema@.run_woken(ins, got);
                if got ? 'given' then
                    did.result := @extschema@.run_atomic(
                        target, @extschema@.run_given(code, pc, got -> 'given'), pc, last,
                        case when own is null then env else env || own end, path, runner, i.workflow);
                end if;
            elsif replays or op <> 'sql' and op <> 'atomic' or not alone and op = 'sql' then
                th := case when replays then jsonb_build_object('wait', jsonb_build_object('k', 'replay', 'seq', my_seq))
                           else @extschema@.run_wait(target, i.submitted_by, i.queue, ins, path, limit_s, my_seq, att,
                                                     case when own is null then env else env || own end) end;
                if th ? 'error' then
                    did := @extschema@.run_woken(ins, th);
                else
                    if th ? 'started' then
                        ev := ev + 1;
                        rows := rows || row(target, now(), ev, my_seq, (ins ->> 'n')::int, null, att, 'child', ins ->> 'name',
                                            jsonb_build_object('id', th -> 'started'), null)::@extschema@.history;
                        th := th - 'started';
                    end if;
                    st := jsonb_set(st, array['threads', tid], jsonb_strip_nulls(jsonb_build_object(
                            'pc', pc, 'att', att, 'seq', my_seq, 'env', own, 'fr', st #> array['threads', tid, 'fr'],
                            'up', st #> array['threads', tid, 'up'], 'ix', st #> array['threads', tid, 'ix']))
                        || jsonb_build_object('last', last) || th);
                    tid := null;
                    continue steps;
                end if;
            else
                if steps >= most or clock_timestamp() >= until then
                    outcome := 'more';
                elsif not fresh and (careful or limit_s is not null or st ? 'conflicts'
                                     or slow ? concat(i.workflow, '/', i.version, '/', ins ->> 'n')) then
                    outcome := 'alone';
                end if;
                exit steps when outcome is not null;
                if st ? 'conflicts' then
                    -- It was in somebody's way: now it waits alone, as long as it takes.
                    perform set_config('lock_timeout', coalesce(usual ->> 'lock_timeout', '0'), true);
                end if;
                did := @extschema@.try_step(
                    target, null, ins, case when own is null then env else env || own end, path, runner,
                    i.workflow, i.version, limit_s, careful, code, pc, last);
                if st ? 'conflicts' then
                    perform set_config('lock_timeout', '100ms', true);
                end if;
                fresh := false;
                steps := steps + 1;
                if did.ms > 20 then
                    found_slow := concat(i.workflow, '/', i.version, '/', ins ->> 'n');
                elsif slow <> '{}' and slow ? concat(i.workflow, '/', i.version, '/', ins ->> 'n') then
                    found_slow := concat('-', i.workflow, '/', i.version, '/', ins ->> 'n');
                end if;
                if did.error is not null and did.error ->> 'sqlstate' in ('40P01', '40001', '55P03', '57014')
                   and coalesce((st ->> 'conflicts')::int, 0) < 20
                   and did.error ->> 'type' <> 'pgdurable.errors.StepTimeout' then
                    -- Not the step's fault: it is run again, after a commit, and no attempt is counted.
                    st := jsonb_set(st, '{conflicts}', to_jsonb(coalesce((st ->> 'conflicts')::int, 0) + 1));
                    outcome := case when did.error ->> 'sqlstate' <> '57014' then 'conflict'
                                    when exists (select from @extschema@.events e where e.instance_id = target
                                                    and e.kind in ('cancel', 'terminate', 'pause')) then 'more'
                                    else 'stop' end;
                    exit steps;
                end if;
            end if;
            if op = 'atomic' and did.error is null then
                -- All of its steps, with their numbers; it has none of its own.
                seq := my_seq + jsonb_array_length(did.result -> 'rows');
                if not replays then
                    rows := rows || array(
                        select row(target, now(), ev + r.n, my_seq + r.n - 1, (r.value ->> 'n')::int, (r.value ->> 'ms')::real, att,
                                   'step', r.value ->> 'name', r.value -> 'result', null)::@extschema@.history
                          from jsonb_array_elements(did.result -> 'rows') with ordinality as r (value, n) order by r.n);
                    ev := ev + jsonb_array_length(did.result -> 'rows');
                end if;
                pc := did.result -> 'pc';
                last := did.result -> 'last';
                if is_main then
                    env := env || (did.result -> 'env');
                else
                    own := coalesce(own, '{}') || (did.result -> 'env');
                end if;
                got := null;
                my_seq := null;
                att := 1;
                continue steps;
            end if;
            kept := got;
            got := null;
            if did.error is null then
                if not replays then
                    ev := ev + 1;
                    rows := rows || row(
                        target, now(), ev, my_seq, (ins ->> 'n')::int, did.ms::real, att, did.kind, did.name,
                        case when pg_column_size(did.result) > 1000 then @extschema@.put_aside(target, did.result)
                             else did.result end, null)::@extschema@.history;
                end if;
                last := did.result;
                pc := pc + 1;
                my_seq := null;
                att := 1;
                if ins ? 'into' then
                    if is_main then
                        env := env || jsonb_build_object(ins ->> 'into', @extschema@.env_entry(last));
                        own := own - (ins ->> 'into');
                    else
                        own := coalesce(own, '{}') || jsonb_build_object(ins ->> 'into', @extschema@.env_entry(last));
                    end if;
                end if;
                continue steps;
            end if;
            later := case when not did.retriable then null when replays then 0 else @extschema@.retry_wait(
                ins -> 'retry', usual, att, did.error ->> 'sqlstate') end;
            if later is not null and did.error ? 'retry_in' and not replays then
                -- The other side has said when.
                later := least(greatest((did.error ->> 'retry_in')::float8, 0), 86400);
            end if;
            if replays then
                ev := kept ->> 'event';
            else
                ev := ev + 1;
                rows := rows || row(
                    target, now(), ev, my_seq, (ins ->> 'n')::int, did.ms::real, att,
                    case when later is null then did.kind else 'attempt' end, did.name, null, did.error)::@extschema@.history;
            end if;
            st := st || jsonb_build_object('seq', seq, 'env', env);
            st := jsonb_set(st, array['threads', tid], jsonb_strip_nulls(jsonb_build_object(
                    'pc', pc, 'env', own, 'fr', st #> array['threads', tid, 'fr'],
                    'up', st #> array['threads', tid, 'up'], 'ix', st #> array['threads', tid, 'ix']))
                || jsonb_build_object('last', last));
            if later is not null then
                st := jsonb_set(st, array['threads', tid], (st #> array['threads', tid]) || jsonb_build_object(
                    'att', att + 1, 'seq', my_seq,
                    'wait', jsonb_build_object('k', 'retry', 'due', extract(epoch from clock_timestamp()) + later)));
            else
                kept := case when not st ? 'ending' then st || jsonb_build_object('event', ev) end;
                st := @extschema@.run_fail(st, tid, did.error, usual, handler);
                if kept is not null and st ? 'ending' then
                    -- Where retry begins.
                    st := st || jsonb_build_object('failed', kept);
                end if;
                env := st -> 'env';
            end if;
            tid := null;
        elsif op = 'value' then
            last := @extschema@.resolve(ins -> 'v', case when own is null then env else env || own end);
            pc := pc + 1;
        elsif op = 'jf' then
            if ins ? 'pop' then
                pc := case when @extschema@.truthy(last) then pc + 1 else (ins ->> 'to')::int end;
                last := st #> array['threads', tid, 'fr', '-1', 'v'];
                st := st #- array['threads', tid, 'fr', '-1'];
            else
                pc := case when @extschema@.truthy(last) then pc + 1 else (ins ->> 'to')::int end;
            end if;
        elsif op = 'jmp' then
            pc := ins ->> 'to';
            -- A loop of nothing but values would never look at the time.
            if clock_timestamp() >= until and not replays then
                outcome := 'more';
                exit steps;
            end if;
        elsif op = 'rows' then
            last := to_jsonb(coalesce(jsonb_array_length(nullif(
                case when own is null then env else env || own end #> array[ins ->> 'of', 'r'], 'null')) > 0, false));
            pc := pc + 1;
        elsif op = 'into' then
            if is_main then
                env := env || jsonb_build_object(ins ->> 'v', @extschema@.env_entry(last));
                own := own - (ins ->> 'v');
            else
                own := coalesce(own, '{}') || jsonb_build_object(ins ->> 'v', @extschema@.env_entry(last));
            end if;
            pc := pc + 1;
        elsif op in ('try', 'loop', 'push') then
            th := coalesce(st #> array['threads', tid, 'fr'], '[]') || jsonb_build_array(case op
                when 'push' then jsonb_build_object('k', 'v', 'v', last)
                when 'loop' then jsonb_build_object('k', 'loop', 'x', ins -> 'x')
                else jsonb_strip_nulls(ins - '{o,n,name}'::text[] || case ins ->> 'k'
                        when 'retry' then jsonb_build_object('pc', pc + 1, 'a', 1)
                        when 'limit' then jsonb_build_object('name', ins -> 'name', 'at', extract(epoch from clock_timestamp())
                            + (@extschema@.resolve(ins -> 'seconds', case when own is null then env else env || own end) #>> '{}')::float8)
                        else '{}' end) end);
            st := jsonb_set(st, array['threads', tid, 'fr'], th);
            pc := pc + 1;
        elsif op = 'untry' or op = 'unloop' then
            st := st #- array['threads', tid, 'fr', '-1'];
            pc := pc + 1;
        elsif op = 'break' then
            th := coalesce(st #> array['threads', tid, 'fr'], '[]');
            while th -> -1 ->> 'k' <> 'loop' loop
                th := th - -1;
            end loop;
            kept := case when th -> -1 is null and tid <> '0' then @extschema@.run_break(
                jsonb_set(st || jsonb_build_object('seq', seq, 'env', env), array['threads', tid, 'env'], coalesce(own, '{}')),
                tid, last) end;
            if kept is not null then
                st := kept;
                env := st -> 'env';
                tid := null;
            else
                pc := coalesce((th -> -1 ->> 'x')::int, pc + 1);
                st := jsonb_set(st, array['threads', tid, 'fr'], th - -1);
            end if;
        elsif op = 'undo' then
            st := jsonb_set(st, '{undo}', coalesce(st -> 'undo', '[]') || jsonb_build_array(jsonb_build_object(
                'pc', ins -> 'u', 'env', case when own is null then env else env || own end || jsonb_build_object(
                    'result', @extschema@.env_entry(last)))));
            pc := pc + 1;
        elsif op = 'fork' then
            -- Not with the number and the attempt of the step it was saved at last: that one is done.
            st := jsonb_set(st || jsonb_build_object('seq', seq, 'env', env), array['threads', tid],
                            (st #> array['threads', tid]) - '{wait,att,seq}'::text[]
                            || jsonb_build_object('pc', pc, 'env', coalesce(own, '{}')));
            st := @extschema@.run_fork(st, tid, ins, last, (usual ->> 'max_parallel')::int);
            tid := null;
        elsif op = 'end' and tid <> '0' then
            st := st || jsonb_build_object('seq', seq, 'env', env);
            st := jsonb_set(st, array['threads', tid, 'env'], coalesce(own, '{}'));
            st := @extschema@.run_end_thread(st, tid, last);
            env := st -> 'env';
            tid := null;
        elsif op = 'undone' or op = 'end' then
            st := st || jsonb_build_object('seq', seq, 'env', env);
            if st ? 'ending' then
                st := @extschema@.run_next_left(st);
            else
                st := jsonb_set(st, '{threads}', '{}');
            end if;
            tid := null;
        else
            raise exception using errcode = 'XX000',
                message = format('instruction %s of workflow %s version %s is none: %s', pc, i.workflow, i.version, ins);
        end if;
    end loop;

    if tid is not null then
        st := st || jsonb_build_object('seq', seq, 'env', env);
        st := jsonb_set(st, array['threads', tid], jsonb_strip_nulls(jsonb_build_object(
                'pc', pc, 'att', att, 'seq', my_seq, 'env', own, 'fr', st #> array['threads', tid, 'fr'],
                'up', st #> array['threads', tid, 'up'], 'ix', st #> array['threads', tid, 'ix']))
            || jsonb_build_object('last', last));
    end if;
    if cardinality(rows) > 0 then
        insert into @extschema@.history
            (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error)
        select target, r.event_id, r.seq, r.fingerprint, r.elapsed_ms, r.attempt, r.kind, r.name, r.payload, r.error
          from unnest(rows) r;
        st := st - 'conflicts';
    end if;
    if outcome is not null then
        perform @extschema@.run_save(worker, target, st, false);
    elsif st -> 'threads' = '{}' then
        perform @extschema@.run_over(worker, target, st, last, i.state is not null);
        outcome := 'over';
    else
        perform @extschema@.run_save(worker, target, st || jsonb_build_object('seq', seq, 'env', env), true);
        outcome := 'over';
    end if;
end
$$;
