-- The items of a write to a stream, counted from 0, and its end if it has one: see write_stream.
create or replace function @extschema@.stream_parts(body jsonb)
returns table (k bigint, kind text, item jsonb)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select a.ordinality - 1, 'item', a.value
      from jsonb_array_elements(body -> 'items') with ordinality a
    union all
    select jsonb_array_length(body -> 'items'), 'end', null where (body -> 'end')::boolean
$$;
