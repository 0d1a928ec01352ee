-- @> body: a loop without a condition.
create or replace function df._loop(body text) returns text
language sql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select df.loop(body)
$$;
