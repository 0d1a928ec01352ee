-- The references in a scanned statement: the path of each in the environment, whether it may be null, whether it stands
-- inside a string, and how it is written.
create or replace function @extschema@.query_refs(parts jsonb)
returns table (path jsonb, safe boolean, inside boolean, source text)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.env_path(r.part), (r.part ->> 'safe')::boolean, r.inside, r.part ->> 'src'
      from (select p as part, false as inside from jsonb_array_elements(parts) as p where p ? 'ref'
            union all
            select l, true from jsonb_array_elements(parts) as p, jsonb_array_elements(p -> 'lit') as l
             where p ? 'lit' and jsonb_typeof(l) = 'object') as r
$$;
