-- When a tick is acted on: put off by its schedule's jitter, the same for all who ask, and never past the next tick.
create or replace function @extschema@.tick_fires(name text, definition jsonb, tick timestamptz) returns timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    span float8 := (definition ->> 'jitter_s')::float8;
    share float8;
    following timestamptz;
begin
    if tick is null or coalesce(span, 0) = 0 then
        return tick;
    end if;
    -- The first eight bytes of a hash, as a share of one.
    select sum(get_byte(h.digest, n)::float8 / 256 ^ (n + 1)) into share
      from (select sha256(convert_to(name || ' ' || @extschema@.tick_key(tick), 'UTF8')) as digest) h
     cross join generate_series(0, 7) as n;
    following := @extschema@.tick_next(definition, tick);
    return tick + make_interval(secs => share * least(span, extract(epoch from following - tick)::float8));
end
$$;
