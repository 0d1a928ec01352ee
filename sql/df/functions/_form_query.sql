-- The expression of SQL that makes a form of its parts; null where data has a reference beside other text.
create or replace function df._form_query(parts jsonb, boundary text, vars jsonb) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    with fields as (
        select p.n, f.key, df._fill(f.value, vars) as filled
          from jsonb_array_elements(parts) with ordinality as p (part, n)
         cross join lateral jsonb_each_text(p.part) as f (key, value)
         where f.value is not null
    )
    select case when not bool_or(f.key = 'data_b64' and df._refs(f.filled) and not df._is_ref(f.filled)) then
               format('df._form(%s, pg_catalog.jsonb_build_array(%s))', df._literal(boundary), (
                   select string_agg('pg_catalog.jsonb_build_object(' || g.pairs || ')', ', ' order by g.n)
                     from (select w.n, string_agg(format('%s, %s', df._literal(w.key), case when df._is_ref(w.filled)
                                      then format('(%s)::text', btrim(w.filled)) else df._literal(w.filled) end), ', ') as pairs
                             from fields w group by w.n) g)) end
      from fields f
$$;
