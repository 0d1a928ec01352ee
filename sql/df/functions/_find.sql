-- The instance of an id that df.start gave; null: none, or none of the caller.
create or replace function df._find(id text) returns uuid
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select r.instance_id from df.runs r where r.id = _find.id and df._sees(r.submitted_by)
$$;
