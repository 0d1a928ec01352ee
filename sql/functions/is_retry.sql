-- Whether this is a retry policy: see `retries`.
create or replace function @extschema@.is_retry(policy jsonb)
returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_typeof(policy) = 'object' and coalesce((
        select bool_and(coalesce(case
            when f.key = 'max_attempts' and f.value = 'null' then true
            when f.key in ('on', 'never_on') then jsonb_typeof(f.value) = 'array' and not exists (
                select from jsonb_array_elements(case when jsonb_typeof(f.value) = 'array' then f.value else '[]' end) as s
                 where s #>> '{}' !~ '^[0-9A-Z]{2}([0-9A-Z]{3})?$')
            when jsonb_typeof(f.value) <> 'number' then false
            when f.key = 'max_attempts' then f.value::numeric >= 1 and f.value::numeric % 1 = 0
            when f.key = 'multiplier' then f.value::numeric >= 1
            when f.key in ('initial', 'max_interval') then f.value::numeric >= 0
            when f.key = 'jitter' then f.value::numeric between 0 and 1
            else false end, false))
          from jsonb_each(case when jsonb_typeof(policy) = 'object' then policy else '{}' end) as f), true)
$$;
