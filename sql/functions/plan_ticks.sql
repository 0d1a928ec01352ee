-- What is to be done about a schedule now, as workers in Python work it out (see their module ticks): nothing is written.
--
-- Arguments: `of`: its row; `at`: the time.
-- Returns: an object as tick_schedules takes it, whose `starts` are the times of ticks.
-- Raises: PGD05 its cron or time zone is none.
create or replace function @extschema@.plan_ticks(of @extschema@.schedules, at timestamptz) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    at_once constant int := 100;
    most_buffered constant int := 1000;
    def jsonb := of.definition;
    overlap text := coalesce(def ->> 'overlap', 'skip');
    watches boolean := coalesce((def ->> 'pause_on_failure')::boolean, false);
    keep uuid[];
    failed record;
    note text;
    starts timestamptz[];
    asked jsonb := '[]';
    kept jsonb := '[]';
    buffered timestamptz[] := of.buffered;
    cancel uuid[] := '{}';
    more boolean := false;
    skipped int := 0;
    missed int := 0;
    request jsonb;
    now_too boolean;
    room int;
    since timestamptz;
    tick timestamptz;
    tick_at timestamptz;
    come timestamptz[];
    next_at timestamptz;
begin
    keep := array(select r.id from unnest(of.running) with ordinality as r (id, n)
                    join @extschema@.instances i on i.id = r.id
                   where i.status not in ('completed', 'failed', 'cancelled', 'timed_out') order by r.n);
    starts := array(select (r.value ->> 'trigger')::timestamptz from jsonb_array_elements(of.requests) with ordinality as r (value, n)
                     where r.value ? 'trigger' order by r.n);
    select coalesce(jsonb_agg(r.value order by r.n), '[]') into asked
      from jsonb_array_elements(of.requests) with ordinality as r (value, n) where not r.value ? 'trigger';
    -- A definition that is none raises here, also while it is paused.
    perform @extschema@.tick_next(def, at);
    if watches and not of.paused then
        select i.id, i.status into failed
          from unnest(of.running) with ordinality as r (id, n)
          join @extschema@.instances i on i.id = r.id
         where i.status in ('failed', 'timed_out') order by r.n desc limit 1;
        if found then
            note := format('instance %s ended %s', failed.id, failed.status);
        end if;
    end if;
    if of.paused or note is not null then
        return jsonb_build_object('starts', to_jsonb(starts), 'cancel', '[]'::jsonb, 'keep', to_jsonb(keep),
            'buffered', to_jsonb(buffered), 'requests', asked, 'note', note, 'skipped', 0, 'missed', 0);
    end if;
    -- What was asked for of the past moves to where it is started from.
    for request in select r.value from jsonb_array_elements(asked) with ordinality as r (value, n) order by r.n loop
        now_too := coalesce(request ->> 'overlap', overlap) = 'allow';
        room := case when now_too then at_once - cardinality(starts) else most_buffered - cardinality(buffered) end;
        since := (request ->> 'since')::timestamptz;
        tick := @extschema@.tick_next(def, since);
        while tick <= (request ->> 'until')::timestamptz loop
            if room <= 0 then
                kept := kept || jsonb_build_array(request || jsonb_build_object('since', @extschema@.tick_key(since)));
                more := more or now_too;
                exit;
            end if;
            if tick <> all (buffered) and not exists (
                select from @extschema@.instance_keys k where k.id = @extschema@.tick_key(tick, of.name))
            then
                if now_too then
                    starts := starts || tick;
                else
                    buffered := buffered || tick;
                end if;
            end if;
            room := room - 1;
            since := tick;
            tick := @extschema@.tick_next(def, tick);
        end loop;
    end loop;
    buffered := array(select b from unnest(buffered) b order by b);
    -- What has come, by what the schedule says of overlaps.
    if cardinality(buffered) > 0 and cardinality(keep) = 0 and cardinality(starts) = 0 then
        starts := starts || buffered[1];
        buffered := buffered[2:];
    end if;
    tick := case when of.tick_at is null and def ? 'at' and of.last_at = (def ->> 'at')::timestamptz then null
                 when of.tick_at is not null then of.tick_at
                 when def ? 'at' then (def ->> 'at')::timestamptz
                 else @extschema@.tick_next(def, of.since) end;
    if tick is not null then
        select c.wanted, c.following, c.missed into come, tick_at, missed
          from @extschema@.ticks_come(of.name, def, tick, at) c;
        foreach tick in array come loop
            if overlap = 'allow' or cardinality(keep) + cardinality(starts) = 0 then
                starts := starts || tick;
            elsif cardinality(buffered) < (case overlap when 'buffer_one' then 1 when 'buffer_all' then most_buffered else 0 end) then
                buffered := buffered || tick;
            elsif overlap = 'cancel_other' then
                skipped := skipped + cardinality(buffered);
                buffered := array[tick];
                cancel := keep;
            else
                skipped := skipped + 1;
            end if;
        end loop;
    end if;
    next_at := @extschema@.tick_fires(of.name, def, tick_at);
    if cardinality(buffered) > 0 or watches and cardinality(keep) + cardinality(starts) > 0 then
        -- One that others wait for is looked at after a tenth of the time it has run, within a quarter and ten seconds.
        next_at := least(next_at, at + case when cardinality(starts) > 0 or of.last_at is null then interval '250 milliseconds'
            else least(greatest((at - of.last_at) / 10, interval '250 milliseconds'), interval '10 seconds') end);
    end if;
    if more then
        next_at := least(next_at, at);
    end if;
    return jsonb_build_object('starts', to_jsonb(starts), 'cancel', to_jsonb(cancel), 'keep', to_jsonb(keep), 'tick_at', tick_at,
        'next_at', next_at, 'buffered', to_jsonb(buffered), 'requests', kept, 'note', null, 'skipped', skipped, 'missed', missed);
end
$$;
