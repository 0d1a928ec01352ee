-- Starts what schedules of workflows in SQL have due: the database's part in schedules, as workers have theirs for workflows in
-- Python. Pumps call it; where none runs all the time, pg_cron may.
--
-- A tick is started once, whoever looks how often at the same time: see tick_schedules. A schedule that cannot be understood is
-- paused, with a note; the others go on. At most a hundred schedules a call.
-- Arguments: `worker`: whose fence is held meanwhile; null: nobody's.
-- Locks: the rows of the schedules that it writes, until the caller commits: commit soon.
-- Returns: `made`: how many instances; `looked`: how many schedules; `next_at`: when the next of them has to be looked at.
-- Raises: PGD01 the worker was taken over.
create or replace function @extschema@.start_scheduled(
    worker bigint default null, out made int, out looked int, out next_at timestamptz)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one @extschema@.schedules;
    plan jsonb;
    plans jsonb := '[]';
    aside jsonb;
    message text;
    program text;
begin
    made := 0;
    looked := 0;
    for one in
        select s.* from @extschema@.schedules s
         where s.next_at <= now()
           and exists (select from @extschema@.workflows w where w.name = s.workflow and w.kind = 'sql')
         order by s.next_at limit 100
    loop
        looked := looked + 1;
        begin
            plan := @extschema@.plan_ticks(one, now());
            select w.definition::text into program from @extschema@.workflows w
             where w.name = one.workflow and w.kind = 'sql' and (one.definition ->> 'version' is null or w.version = one.definition ->> 'version')
             order by w.defined_at desc nulls last, w.version desc limit 1;
            plan := plan || jsonb_build_object('starts', coalesce((
                select jsonb_agg(jsonb_build_object(
                    'id', @extschema@.new_id(), 'key', @extschema@.tick_key(t.tick, one.name), 'tick', t.tick,
                    -- Where the workflow asks for it, its tick is an input.
                    'input', case when program like '%scheduled\_at%' and jsonb_typeof(one.input) = 'object'
                                   and not one.input::text like '{"$pgdurable:%'
                                  then jsonb_build_object('scheduled_at', t.local) || one.input else one.input end,
                    'labels', coalesce(nullif(one.definition -> 'labels', 'null'), '{}')
                        || jsonb_build_object('schedule', one.name, 'scheduled_at', t.local)) order by t.n)
                  from (select e.tick::timestamptz as tick, e.n,
                               @extschema@.tick_local(e.tick::timestamptz, coalesce(one.definition ->> 'tz', 'UTC')) as local
                          from jsonb_array_elements_text(plan -> 'starts') with ordinality as e (tick, n)) t), '[]'));
        exception when others then
            get stacked diagnostics message = message_text;
            plan := jsonb_build_object('starts', '[]'::jsonb, 'cancel', '[]'::jsonb, 'keep', to_jsonb(one.running),
                'buffered', to_jsonb(one.buffered), 'requests', one.requests, 'note', message, 'skipped', 0, 'missed', 0);
        end;
        plans := plans || jsonb_build_array(plan || jsonb_build_object('name', one.name, 'revision', one.revision));
    end loop;
    if looked > 0 then
        select coalesce(sum(t.made), 0), jsonb_agg(p.value || jsonb_build_object(
                   'starts', '[]'::jsonb, 'cancel', '[]'::jsonb, 'next_at', null, 'note', t.refused)) filter (where t.refused is not null)
          into made, aside
          from @extschema@.tick_schedules(worker, plans) t
          join jsonb_array_elements(plans) p on p.value ->> 'name' = t.name;
        if aside is not null then
            perform @extschema@.tick_schedules(worker, aside);
        end if;
    end if;
    select s.next_at into next_at from @extschema@.schedules s
     where s.next_at is not null
       and exists (select from @extschema@.workflows w where w.name = s.workflow and w.kind = 'sql')
     order by s.next_at limit 1;
end
$$;
