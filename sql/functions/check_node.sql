-- What is wrong with one node of a normalized definition, its children apart.
create or replace function @extschema@.check_node(node jsonb)
returns table (problem text, hint text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with one as (select node ->> 'op' as op)
    , field as (select f.field, f.kind, f.needed, node -> f.field as value
                  from one cross join lateral @extschema@.node_fields(one.op) as f)
    select format('there is no op %L', one.op),
           'There are: sql, call, seq, atomic, parallel, race, if, loop, for_each, break, sleep, wait_until, wait_for_schedule,'
           ' wait_signal, http, start_child, python, external, on_error, compensate, value.'
      from one where not exists (select from field)
    union all
    select format('it needs %s', case when f.field in ('query', 'in') then 'query or in' else f.field end),
           format('Fields of %s: %s.', one.op, (select string_agg(a.field, ', ') from field a))
      from one, field f
     where f.needed and f.value is null and not (one.op = 'for_each' and node ? 'in')
    union all
    select format('it has no field %s', k),
           format('Fields of %s: %s.', one.op, (select string_agg(a.field, ', ') from field a))
      from one, jsonb_object_keys(node) as k
     where k <> 'op' and exists (select from field) and not exists (select from field a where a.field = k)
    union all
    select format('%s is %s, found %s', f.field, case f.kind
               when 'text' then 'a text that is not empty' when 'int' then 'a whole number of 1 or more'
               when 'seconds' then 'a number of seconds of 0 or more, an interval as text, or "$name"'
               when 'time' then 'a time as text, or "$name"' when 'name' then 'a name of letters, digits and underscores, not input or error'
               when 'boolean' then 'true or false' when 'args' then 'an array, or an object by name' when 'object' then 'an object'
               when 'ref' then 'a reference, "$name", or an array'
               when 'nodes' then 'an array with a node or more' when 'timeout' then 'a number of seconds above 0, or an interval as text'
               when 'retry' then 'an object: max_attempts (1 or more), initial, multiplier (1 or more), max_interval, jitter (0 to 1), on, never_on'
               when 'close' then 'cancel or abandon' else f.kind end, left(f.value::text, 80)),
           case f.kind when 'seconds' then 'For example 90, "1.5 hours" or "$delay".'
                       when 'retry' then 'SQLSTATEs have 5 letters or digits ("40001"), classes the first 2 of them ("40").'
                       else 'See docs/sql.md.' end
      from field f
     where f.value is not null and not coalesce(case f.kind
               when 'text' then jsonb_typeof(f.value) = 'string' and f.value <> '""'
               when 'int' then jsonb_typeof(f.value) = 'number' and f.value::numeric >= 1 and f.value::numeric % 1 = 0
               when 'seconds' then (jsonb_typeof(f.value) = 'number' and f.value::numeric >= 0) or f.value #>> '{}' ~ '^\$'
               when 'timeout' then jsonb_typeof(f.value) = 'number' and f.value::numeric > 0
               when 'time' then jsonb_typeof(f.value) = 'string'
               when 'name' then jsonb_typeof(f.value) = 'string' and (f.value #>> '{}') collate "C" ~ '^([A-Za-z_]|[^\x01-\x7f])([A-Za-z0-9_]|[^\x01-\x7f])*$'
                    and f.value #>> '{}' not in ('input', 'error')
               when 'boolean' then jsonb_typeof(f.value) = 'boolean'
               when 'args' then jsonb_typeof(f.value) in ('array', 'object')
               when 'object' then jsonb_typeof(f.value) = 'object'
               when 'ref' then jsonb_typeof(f.value) = 'array' or f.value #>> '{}' ~ '^\$'
               when 'nodes' then jsonb_typeof(f.value) = 'array' and f.value <> '[]'
               when 'retry' then @extschema@.is_retry(f.value)
               when 'close' then f.value #>> '{}' in ('cancel', 'abandon')
               else true end, false)
$$;
