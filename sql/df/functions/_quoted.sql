-- A name in the head of a form's part: quotes and line breaks as browsers write them.
create or replace function df._quoted(value text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select replace(replace(replace(value, '"', '%22'), e'\r', '%0D'), e'\n', '%0A')
$$;
