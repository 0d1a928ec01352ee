-- Waits so many seconds, parts of one too. Raises: 22023 for less than none.
create or replace function df.sleep(seconds numeric) returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if not seconds between 0 and 1e11 then
        raise exception using errcode = '22023', message = format('df.sleep takes 0 seconds or more, found %s', seconds),
            hint = 'For a moment that is known: df.wait_for_schedule.';
    end if;
    return jsonb_build_object('node_type', 'SLEEP', 'query', seconds::text)::text;
end
$$;
