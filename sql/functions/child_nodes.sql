-- The nodes directly under one: which (from 1), under what name, and itself.
create or replace function @extschema@.child_nodes(node jsonb)
returns table (nth int, slot text, child jsonb)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select u.n::int, u.n::text, u.e
      from jsonb_array_elements(case
               when node ->> 'op' in ('seq', 'atomic') and jsonb_typeof(node -> 'steps') = 'array' then node -> 'steps'
               when node ->> 'op' in ('parallel', 'race') and jsonb_typeof(node -> 'branches') = 'array' then node -> 'branches'
               else '[]' end) with ordinality as u (e, n)
    union all
    select row_number() over (order by f.n)::int, f.field, node -> f.field
      from unnest(case node ->> 'op'
               when 'if' then '{when,then,else}'::text[]
               when 'loop' then '{body,while}'
               when 'for_each' then '{body}'
               when 'on_error' then '{body,handler}'
               when 'compensate' then '{body,undo}'
               else '{}' end) with ordinality as f (field, n)
     where node ? f.field
$$;
