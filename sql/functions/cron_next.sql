-- The first time after `after` that a cron expression names, on the clock of a time zone; null: none in fifty years.
--
-- The expression has five fields (minute, hour, day of month, month, day of week) or six, seconds first; or is @hourly,
-- @daily, @weekly, @monthly or @yearly. Numbers, names, ranges, lists, steps; day of week 0 and 7 are Sunday; `L` is the last
-- day of the month, `LW` the last working day, `5L` the last Friday, `MON#2` the second Monday. When day of month and day of
-- week are both restricted, a day that matches either is meant (a field that begins with a star restricts nothing).
-- When the clocks change: what would fall into the hour that is skipped runs right after it, what falls into the doubled
-- hour runs once; an expression whose minute or hour begins with a star, or that has seconds, goes by elapsed time.
-- The same times as a schedule's (`schedule`).
-- Raises: PGD05 no cron expression, or no such time zone.
create or replace function @extschema@.cron_next(expr text, tz text default 'UTC', after timestamptz default now())
returns timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    parts text[] := regexp_split_to_array(btrim(upper(case lower(btrim(expr))
        when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *' when '@midnight' then '0 0 * * *'
        when '@weekly' then '0 0 * * 0' when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *'
        when '@annually' then '0 0 1 1 *' else expr end), E' \t\n\r'), '\s+');
    five boolean := cardinality(parts) = 5;
    seconds int[];
    minutes int[];
    hours int[];
    days int[];
    months int[];
    weekdays int[];
    star boolean;
    wall timestamp;
    there timestamp;
    tick timestamptz;
    day date;
    n int;
begin
    if expr is null or tz is null or after is null or not isfinite(after) then
        return null;
    end if;
    if cardinality(parts) not in (5, 6) then
        raise exception using errcode = 'PGD05', message = format('%L is no cron expression: it has %s fields', expr,
            case when btrim(expr) = '' then 0 else cardinality(parts) end),
            detail = 'Expected minute, hour, day of month, month and day of week; seconds before them if you like.',
            hint = 'For example ''0 3 * * 1-5'': at three o''clock on working days.';
    end if;
    parts := case when five then '{0}'::text[] || parts else parts end;
    seconds := @extschema@.cron_set('second', parts[1]);
    minutes := @extschema@.cron_set('minute', parts[2]);
    hours := @extschema@.cron_set('hour', parts[3]);
    days := @extschema@.cron_set('day', parts[4]);
    months := @extschema@.cron_set('month', parts[5]);
    weekdays := @extschema@.cron_set('weekday', parts[6]);
    star := left(parts[4], 1) = '*' or left(parts[6], 1) = '*';
    if star and days[1] > 29 and days[1] < 32
       and days[1] > (select max(case when m in (4, 6, 9, 11) then 30 when m = 2 then 29 else 31 end) from unnest(months) as u (m))
    then
        raise exception using errcode = 'PGD05', message = format('%L is no cron expression: no such day in these months', expr),
            hint = 'L as the day of month is the last day of any month.';
    end if;
    begin
        wall := date_trunc('second', after at time zone tz);
    exception when invalid_parameter_value then
        raise exception using errcode = 'PGD05', message = format('there is no time zone %L', tz),
            hint = 'Use a name like ''Europe/Berlin'' or ''UTC''.';
    end;
    if five and left(parts[2], 1) <> '*' and left(parts[3], 1) <> '*' then
        day := wall::date;
        loop
            day := @extschema@.cron_day(day, days, months, weekdays, star);
            if day is null then
                return null;
            end if;
            select min(day + make_interval(hours => h, mins => m)) into there
              from unnest(hours) as a (h) cross join unnest(minutes) as b (m)
             where day + make_interval(hours => h, mins => m) > wall;
            if there is not null then
                tick := @extschema@.wall_time(there, tz);
                if tick > after then
                    return tick;
                end if;
                wall := there;
            else
                day := day + 1;
            end if;
        end loop;
    end if;
    -- From the beginning of the minute, by jumps that end where the clock shows what it should after so long.
    tick := after - (after at time zone tz - date_trunc('minute', after at time zone tz));
    loop
        there := tick at time zone tz;
        day := @extschema@.cron_day(there::date, days, months, weekdays, star);
        if day is null or day > wall::date + 18263 then
            return null;
        elsif day <> there::date then
            tick := greatest(tick + interval '1 minute', @extschema@.wall_time(day::timestamp, tz, false));
            continue;
        end if;
        n := 60 - extract(minute from there)::int;
        if extract(hour from there)::int = any (hours) then
            n := coalesce((select min(m) from unnest(minutes) as u (m) where m >= 60 - n) - (60 - n), n);
        end if;
        if n = 0 then
            select min(s) into n from unnest(seconds) as u (s) where tick + make_interval(secs => s) > after;
            if n is not null then
                return tick + make_interval(secs => n);
            end if;
            n := 1;
        end if;
        tick := tick + case when (tick + make_interval(mins => n)) at time zone tz = there + make_interval(mins => n)
                            then make_interval(mins => n) else interval '1 minute' end;
    end loop;
end
$$;
