-- What work begins with: joins `workers`, with a lock of this session that marks its presence, and notes what a step might
-- leave changed in the session. What an earlier call in this session has left behind is ended first.
--
-- Returns: the pump, a JSON object that pump_turn takes and gives.
create or replace function @extschema@.pump_begin(
    max_time interval, max_steps bigint, wait boolean, listens text[]) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    me bigint;
begin
    if max_time < interval '0' or max_steps < 1 or max_time is null or wait is null then
        raise exception using errcode = 'PGD05',
            message = format('work takes a max_time that is not negative and max_steps of at least 1 or null; found %s and %s',
                             coalesce(max_time::text, 'null'), max_steps),
            hint = 'For example: call @extschema@.work(max_time => ''50 s'').';
    end if;
    perform @extschema@.pump_leave(l.objid::bigint)
       from pg_locks l
      where l.locktype = 'advisory' and l.pid = pg_backend_pid() and l.granted and l.objsubid = 2
        and l.database = (select d.oid from pg_database d where d.datname = current_database())
        and l.classid = @extschema@.lock_class(1)::oid;
    perform @extschema@.make_partitions();
    me := @extschema@.join_worker(format('pump %s', pg_backend_pid()), '[]', interval '100 years', true, listens);
    -- Before the row can be seen: who sees it without the lock may take it for dead at once.
    perform pg_advisory_lock(@extschema@.lock_class(1), me::int);
    perform set_config('pgdurable.pump_name', coalesce(nullif(current_setting('application_name'), ''), 'pgdurable pump'), false);
    return jsonb_build_object(
        'me', me, 'going', true, 'wait', wait, 'listens', to_jsonb(listens), 'ids', '[]'::jsonb, 'slow', '{}'::jsonb,
        'until', extract(epoch from clock_timestamp() + max_time), 'most', max_steps, 'steps', 0, 'idle', 0,
        'settings', @extschema@.pump_settings());
end
$$;
