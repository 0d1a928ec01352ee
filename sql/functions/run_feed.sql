-- For an instance that replays what was copied to it: gives the next row of its history to the thread that waits for it. Without
-- a row left, what waits for one begins for real: it is `done`.
--
-- Arguments: `rows`: of commands, in order; `fed`: how many were given; `code`: the program.
-- Raises: PGD05 the program does not come to what history says.
create or replace function @extschema@.run_feed(
    target uuid, inout state jsonb, rows @extschema@.history[], inout fed int, code jsonb, out done boolean)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
    thread text;
    waiting jsonb;
    ins jsonb;
    pc int;
    r @extschema@.history;
    got jsonb;
    given jsonb := '{}';
    inside int[] := '{}';
begin
    done := false;
    -- Backoffs are over.
    for one in select t.key from jsonb_each(state -> 'threads') t
                where t.value #>> '{wait,k}' = 'retry' and t.value #> '{wait,got}' is null loop
        state := jsonb_set(state, array['threads', one.key, 'wait', 'got'], '{}');
        thread := one.key;
    end loop;
    if thread is not null then
        return;
    end if;
    fed := fed + 1;
    if fed > cardinality(rows) then
        done := true;
        for one in select t.key, t.value from jsonb_each(state -> 'threads') t where t.value #>> '{wait,k}' = 'replay' loop
            state := jsonb_set(state, array['threads', one.key], case when one.value -> 'wait' ? 'child'
                then one.value || jsonb_build_object('wait', jsonb_build_object(
                    'k', 'child', 'id', one.value #> '{wait,child}', 'seq', one.value #> '{wait,seq}'))
                else one.value - 'wait' || jsonb_build_object('seq', one.value #> '{wait,seq}') end);
        end loop;
        return;
    end if;
    r := rows[fed];
    select t.key, t.value into thread, waiting from jsonb_each(state -> 'threads') t
     where t.value #>> '{wait,k}' = 'replay' and (t.value #>> '{wait,seq}')::int = r.seq;
    pc := waiting ->> 'pc';
    ins := code -> pc;
    if ins ->> 'o' = 'atomic' and r.error is null then
        while code -> pc ->> 'o' <> 'unatomic' loop
            inside := inside || coalesce((code -> pc ->> 'n')::int, -1);
            pc := pc + 1;
        end loop;
    end if;
    if thread is null or (ins ->> 'n')::int <> r.fingerprint and r.fingerprint <> all (inside)
       -- Another version may have another node there.
       or r.error is null and r.kind <> all (case
            when ins ->> 'o' in ('sleep', 'wait_until', 'wait_for_schedule') then '{timer}'::text[]
            when ins ->> 'o' = 'wait_signal' then '{signal,timer}' when ins ->> 'o' = 'start_child' then '{child,child_end}'
            else '{step}' end) then
        raise exception using errcode = 'PGD05',
            message = format('instance %s does not come to event %s of what was copied to it: %s %s, command %s', target, r.event_id,
                             r.kind, coalesce(r.name, ''), r.seq),
            detail = case when thread is not null then format('It comes to step %s there.', ins ->> 'name') end,
            hint = 'Fork from an earlier event, with the version and the input of the original.';
    end if;
    if r.kind = 'child' and r.error is null and coalesce(ins #>> '{a,wait}', 'true')::boolean then
        state := jsonb_set(state, array['threads', thread, 'wait', 'child'], r.payload -> 'id');
        return;
    end if;
    got := jsonb_build_object('what', 'replayed', 'kind', r.kind, 'name', r.name, 'event', r.event_id, 'error', r.error,
                              'output', @extschema@.whole(target, r.payload), 'again', r.kind = 'attempt');
    if inside <> '{}' then
        -- All of it was one commit.
        for n in fed .. cardinality(rows) loop
            exit when rows[n].seq <> r.seq + n - fed or rows[n].fingerprint <> all (inside)
                   or n > fed and rows[n].fingerprint <= rows[n - 1].fingerprint;
            given := given || jsonb_build_object(rows[n].fingerprint::text, @extschema@.whole(target, rows[n].payload));
        end loop;
        fed := fed + (select count(*)::int from jsonb_object_keys(given)) - 1;
        got := got || jsonb_build_object('given', given);
    end if;
    state := jsonb_set(state, array['threads', thread, 'wait', 'got'], got);
end
$$;
