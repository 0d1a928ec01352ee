-- When the clocks of a time zone first show this; where they skip it, the first whole minute after that they do show.
--
-- `exact` false: a time not after that one, and at most the length of a change of the clocks before it.
create or replace function @extschema@.wall_time(wall timestamp, tz text, exact boolean default true) returns timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    utc timestamptz;
    early timestamptz;
    late timestamptz;
    swap timestamptz;
begin
    loop
        utc := wall at time zone 'UTC';
        early := utc - ((utc - interval '24 hours') at time zone tz - (utc - interval '24 hours') at time zone 'UTC');
        late := utc - ((utc + interval '24 hours') at time zone tz - (utc + interval '24 hours') at time zone 'UTC');
        swap := greatest(early, late);
        early := least(early, late);
        if not exact or early at time zone tz = wall then
            return early;
        elsif swap at time zone tz = wall then
            return swap;
        end if;
        wall := date_trunc('minute', wall) + interval '1 minute';
    end loop;
end
$$;
