-- Notes that this statement called a function whose result is no step, for df._ensure to refuse it as one.
create or replace function df._helper(name text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    select set_config('df.helper', name || e'\n' || statement_timestamp(), true)
$$;
