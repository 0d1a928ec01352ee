-- Where a JSON value names secrets: {"$secret": "NAME"}, or with {"format": "Bearer {}"} beside it.
-- Returns: [{"path": ["headers", "authorization"], "name": "NAME", "format": "Bearer {}"}, ...]; null: nowhere.
create or replace function @extschema@.secret_places(value jsonb) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    with recursive walk (path, value) as (
        select '[]'::jsonb, value
        union all
        select w.path || k.key, k.value
          from walk w
         cross join lateral (
            select to_jsonb(o.key) as key, o.value
              from jsonb_each(case when jsonb_typeof(w.value) = 'object' and not w.value ? '$secret' then w.value end) o
            union all
            select to_jsonb(a.n - 1), a.value
              from jsonb_array_elements(case when jsonb_typeof(w.value) = 'array' then w.value end)
                   with ordinality as a (value, n)
         ) k
    )
    select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
               'path', w.path, 'name', w.value -> '$secret', 'format', w.value -> 'format')))
      from walk w
     where jsonb_typeof(w.value) = 'object' and w.value ? '$secret'
$$;
