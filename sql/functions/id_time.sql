-- When an instance of this id was started, to the millisecond.
create or replace function @extschema@.id_time(id uuid) returns timestamptz
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select timestamptz 'epoch' + ms / 1000 * interval '1 second' + ms % 1000 * interval '1 millisecond'
      from (select ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint) as the_first_48_bits (ms)
$$;
