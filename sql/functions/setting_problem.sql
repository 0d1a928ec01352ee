-- What is wrong with a value of a setting, as what was expected; null: nothing.
create or replace function @extschema@.setting_problem(name text, value text) returns text
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    k record;
    fits boolean := false;
begin
    select s.* into k from @extschema@.setting_kinds() s where s.name = setting_problem.name;
    if k is null then
        return 'one of ' || (select string_agg(s.name, ', ') from @extschema@.setting_kinds() s);
    end if;
    if value = k.usual or value = k.word then
        return null;
    end if;
    begin
        fits := case k.kind
            when 'int' then value ~ '^\s*\d{1,10}\s*$' and value::bigint between k.low::bigint and k.high::bigint
            when 'number' then value ~ '^\s*\d{1,9}(\.\d{1,9})?\s*$'
                           and value::numeric between k.low::numeric and k.high::numeric
            else value::interval between k.low::interval and k.high::interval
                 and (k.kind = 'interval' or extract(year from value::interval) = 0 and extract(month from value::interval) = 0)
        end;
    exception when data_exception then
        fits := false;
    end;
    if fits then
        return null;
    end if;
    return format('%s from %s to %s%s%s',
        case k.kind when 'int' then 'a whole number' when 'number' then 'a number' else 'an interval' end,
        k.low, k.high, case k.kind when 'span' then ', without months' else '' end, ', or ' || k.word);
end
$$;
