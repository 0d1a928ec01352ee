-- Waits until an instance has ended, for so many seconds at most, and returns its status.
--
-- Raises: 57014 after that time; PGD02 no such instance; 55000 inside a workflow.
create or replace function df.await_instance(instance_id text, timeout_seconds int default 30) returns text
language plpgsql volatile security definer strict
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid;
    state text;
    until timestamptz := clock_timestamp() + make_interval(secs => timeout_seconds);
    pause float8 := 0.002;
begin
    if df._in_workflow() then
        raise exception using errcode = '55000', message = 'df.await_instance() cannot be called inside a workflow',
            hint = 'It would wait with a lock on its own instance. Send a signal: df.signal and df.wait_for_signal.';
    elsif timeout_seconds <= 0 then
        raise exception using errcode = '22023', message = 'df.await_instance waits for more than 0 seconds',
            hint = 'Ask df.status for how it is now.';
    end if;
    target := df._need(instance_id);
    loop
        state := df._status(target);
        if state is null then
            perform df._need('');
        elsif state in ('completed', 'failed', 'cancelled') then
            perform df._helper('df.await_instance');
            return state;
        elsif clock_timestamp() >= until then
            raise exception using errcode = '57014',
                message = format('Timeout after %ss waiting for instance %s (status: %s)', timeout_seconds, instance_id, state),
                hint = 'Does anybody run call @extschema@.work(), or pgdurable worker?';
        end if;
        perform pg_sleep(least(pause, extract(epoch from until - clock_timestamp())));
        pause := least(pause * 1.5, 0.1);
    end loop;
end
$$;
