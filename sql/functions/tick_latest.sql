-- The last tick of a schedule's definition up to a moment, or `since`, which is one, when there is none between.
create or replace function @extschema@.tick_latest(definition jsonb, until timestamptz, since timestamptz) returns timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    anchor timestamptz;
    every numeric;
    span interval;
    tick timestamptz;
    found_one timestamptz;
begin
    if definition ? 'every_s' then
        anchor := (definition ->> 'anchor')::timestamptz;
        every := round((definition ->> 'every_s')::numeric, 6);
        return greatest(since, anchor + make_interval(secs => (
            floor(extract(epoch from until - anchor)::numeric / every) * every)::float8));
    end if;
    -- From ever further back, and at last from `since`.
    foreach span in array array[interval '1 hour', interval '48 hours', interval '960 hours', null] loop
        continue when until - span <= since;
        found_one := since;
        tick := @extschema@.tick_next(definition, coalesce(until - span, since));
        while tick <= until loop
            found_one := tick;
            tick := @extschema@.tick_next(definition, tick);
        end loop;
        exit when found_one > since;
    end loop;
    return found_one;
end
$$;
