-- The database whose instances run: this one.
create or replace function df.target_database() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select current_database()::text
$$;
