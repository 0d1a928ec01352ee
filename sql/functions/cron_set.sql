-- The numbers that one field of a cron expression stands for, in order.
--
-- `field` is second, minute, hour, day, month or weekday; `part` its text. Beside numbers, for day: 32 is the last day of
-- the month (`L`), 33 the last working day (`LW`); for weekday: 10 * n + d the n-th d of the month (`MON#2` is 21), 100 + d
-- the last one (`5L` is 105). 0 and 7 are both Sunday, and stay as they were written.
-- Raises: PGD05 with what is wrong.
create or replace function @extschema@.cron_set(field text, part text) returns int[]
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    term text := upper(part);
    low int := case when field in ('day', 'month') then 1 else 0 end;
    high int := case field when 'hour' then 23 when 'day' then 31 when 'month' then 12 when 'weekday' then 7 else 59 end;
    names text[] := case field when 'month' then '{JAN,FEB,MAR,APR,MAY,JUN,JUL,AUG,SEP,OCT,NOV,DEC}'::text[]
                         when 'weekday' then '{SUN,MON,TUE,WED,THU,FRI,SAT}'::text[] else '{}'::text[] end;
    found int[];
    step int;
    ends text[];
begin
    if term = '*' then
        return array(select generate_series(low, high));
    end if;
    if strpos(term, ',') > 0 then
        return array(select distinct n.n from unnest(string_to_array(term, ',')) as p (p)
                      cross join lateral unnest(@extschema@.cron_set(field, p.p)) as n (n) order by 1);
    end if;
    if field = 'weekday' and term ~ '^[0-7]L$' then
        return array[100 + left(term, 1)::int % 7];
    elsif field = 'weekday' and term ~ '#0*[1-5]$' then
        found := @extschema@.cron_set(field, split_part(term, '#', 1));
        if cardinality(found) = 1 and found[1] <= high then
            return array[10 * split_part(term, '#', 2)::int + found[1] % 7];
        end if;
    elsif term ~ '/0*[1-9]\d{0,5}$' then
        found := @extschema@.cron_set(field, split_part(term, '/', 1));
        step := split_part(term, '/', 2)::int;
        if field = 'day' and found[1] > high then
            return found;
        end if;
        return case when cardinality(found) = 1 then array(select generate_series(found[1], high, step))
                    else array(select n from unnest(found) with ordinality as u (n, i) where (i - 1) % step = 0 order by n) end;
    elsif field = 'day' and term in ('L', 'LW') then
        return array[case term when 'L' then 32 else 33 end];
    else
        ends := string_to_array(term, '-');
        if cardinality(ends) in (1, 2) then
            found := array(select coalesce(array_position(names, e.e) - 1 + low, case when e.e ~ '^\d{1,9}$' then e.e::int end)
                             from unnest(ends) with ordinality as e (e, i) order by i);
            if array_position(found, null) is null and found[1] >= low and found[cardinality(found)] between found[1] and high then
                return array(select generate_series(found[1], found[cardinality(found)]));
            end if;
        end if;
    end if;
    raise exception using errcode = 'PGD05',
        message = format('%L is no %s of a cron expression', part, case field when 'day' then 'day of the month'
            when 'weekday' then 'day of the week' else field end),
        detail = format('Expected numbers from %s to %s%s, ranges (a-b), lists (a,b) and steps (*/n, a-b/n).', low, high,
            case when names = '{}' then '' else format(' or names (%s)', array_to_string(names, ', ')) end),
        hint = 'The fields are minute, hour, day of month, month and day of week: ''0 3 * * 1-5'' is three o''clock on working days.';
end
$$;
