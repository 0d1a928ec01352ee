-- Whether a text is a reference and nothing else: $name, $name.field, null-safe or not.
create or replace function df._is_ref(value text) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select value ~ '^\s*\$[A-Za-z_]\w*(\.[A-Za-z_]\w*)?\??\s*$'
$$;
