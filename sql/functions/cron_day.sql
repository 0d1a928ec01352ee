-- The first day from this one on that the day fields of a cron expression name; null: there is none in fifty years.
--
-- Arguments: the fields as cron_set() gives them; `both`: a day has to match both of them (one begins with a star), else
-- either will do.
create or replace function @extschema@.cron_day(since date, days int[], months int[], weekdays int[], "both" boolean)
returns date
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    found date := since;
    final date := (date_trunc('month', since::timestamp) + interval '600 months')::date;
    d int;
    w int;
    last_day date;
    by_day boolean;
    by_weekday boolean;
begin
    while found <= final loop
        if extract(month from found)::int <> all (months) then
            found := (date_trunc('month', found::timestamp) + interval '1 month')::date;
            continue;
        end if;
        last_day := (date_trunc('month', found::timestamp) + interval '1 month')::date - 1;
        d := extract(day from found)::int;
        w := extract(dow from found)::int;
        by_day := d = any (days) or (32 = any (days) and found = last_day)
            or (33 = any (days)
                and found = last_day - case extract(dow from last_day)::int when 0 then 2 when 6 then 1 else 0 end);
        by_weekday := w = any (weekdays) or (w = 0 and 7 = any (weekdays)) or 10 * ((d + 6) / 7) + w = any (weekdays)
            or (100 + w = any (weekdays) and found + 7 > last_day);
        if by_day and by_weekday or (not "both" and (by_day or by_weekday)) then
            return found;
        end if;
        found := found + 1;
    end loop;
    return null;
end
$$;
