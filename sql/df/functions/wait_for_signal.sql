-- Waits for a signal, for so many seconds at most. One that came before the wait counts.
--
-- Its result is {"signal_name": ..., "timed_out": false, "data": what was sent}.
-- Raises: 22023 without a name, or for a timeout of nothing.
create or replace function df.wait_for_signal(name text, timeout_seconds int default null) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(name, '') = '' then
        raise exception using errcode = '22023', message = 'df.wait_for_signal needs the name of a signal',
            hint = 'The one that df.signal is given.';
    elsif timeout_seconds <= 0 then
        raise exception using errcode = '22023',
            message = format('df.wait_for_signal waits for more than 0 seconds, found %s', timeout_seconds),
            hint = 'Leave it out to wait for ever.';
    end if;
    return jsonb_build_object('node_type', 'SIGNAL', 'query',
        jsonb_build_object('signal_name', name, 'timeout_seconds', timeout_seconds)::text)::text;
end
$$;
