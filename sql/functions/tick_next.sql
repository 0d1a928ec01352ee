-- The first tick of a schedule's definition after a moment; null: there is none.
-- Raises: PGD05 its cron or time zone is none.
create or replace function @extschema@.tick_next(definition jsonb, moment timestamptz) returns timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    anchor timestamptz;
    every numeric;
begin
    if definition ? 'at' then
        return case when (definition ->> 'at')::timestamptz > moment then (definition ->> 'at')::timestamptz end;
    elsif definition ? 'every_s' then
        -- Elapsed time, in whole microseconds.
        anchor := (definition ->> 'anchor')::timestamptz;
        every := round((definition ->> 'every_s')::numeric, 6);
        return anchor + make_interval(secs => (
            (floor(extract(epoch from moment - anchor)::numeric / every) + 1) * every)::float8);
    end if;
    return @extschema@.cron_next(definition ->> 'cron', coalesce(definition ->> 'tz', 'UTC'), moment);
end
$$;
