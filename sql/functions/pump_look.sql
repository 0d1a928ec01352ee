-- What a pump does about once a second: reads the settings and which workflows there are, and looks for pumps that are gone:
-- their session no longer marks its presence, so what they held is free to be claimed.
create or replace function @extschema@.pump_look(pump jsonb) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    me bigint := pump ->> 'me';
    one record;
    names text[];
    versions text[];
    is_current boolean[];
begin
    for one in
        select b.other, b.other_beat from @extschema@.beat(me, interval '100 years') b
          join @extschema@.workers w on w.id = b.other
         where b.absent and w.name like 'pump %'
    loop
        perform @extschema@.take_over(one.other, one.other_beat, me);
    end loop;
    update @extschema@.workers w set emptied = true
     where w.state in ('dead', 'stopped') and not w.emptied and w.name like 'pump %'
       and not exists (select from @extschema@.instances i where i.owner in (w.id, -w.id));
    select coalesce(array_agg(w.name), '{}'), coalesce(array_agg(w.version), '{}'), coalesce(array_agg(w.is_current), '{}')
      into names, versions, is_current
      from (select w.name, w.version,
                   row_number() over (partition by w.name order by w.defined_at desc nulls last, w.version desc) = 1 as is_current
              from @extschema@.workflows w where w.kind = 'sql') w;
    if (select w.state = 'draining' from @extschema@.workers w where w.id = me) then
        -- It was asked to leave: this is its last turn.
        pump := pump || jsonb_build_object('until', extract(epoch from clock_timestamp()));
    end if;
    return pump || jsonb_build_object(
        'look_at', extract(epoch from clock_timestamp()) + 1, 'usual', @extschema@.usual_policy(), 'tasks_full', true,
        'tick_at', (select extract(epoch from s.next_at) from @extschema@.schedules s
                     where s.next_at is not null and s.workflow = any (names) order by s.next_at limit 1),
        'names', to_jsonb(names), 'versions', to_jsonb(versions), 'current', to_jsonb(is_current),
        'queues', coalesce(nullif(pump -> 'listens', 'null'), (
            with recursive q (name) as (
                (select t.queue from @extschema@.tasks t where t.kind = 'sql' and t.owner is null order by t.queue limit 1)
                union all
                select (select t.queue from @extschema@.tasks t
                         where t.kind = 'sql' and t.owner is null and t.queue > q.name order by t.queue limit 1)
                  from q where q.name is not null)
            select jsonb_agg(q.name) || '["default"]' from q where q.name <> 'default'), '["default"]'));
end
$$;
