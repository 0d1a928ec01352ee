-- Whether no string in a JSON value has a reference beside other text in it.
create or replace function df._whole(value jsonb) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select not exists (select from jsonb_path_query(value, 'lax $.** ? (@.type() == "string")') as s (s)
                        where df._refs(s.s #>> '{}') and not df._is_ref(s.s #>> '{}'))
$$;
