-- How long instances of a workflow with these policies are kept after their end; null: for ever.
create or replace function @extschema@.keep_for(policies jsonb, usual interval) returns interval
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case jsonb_typeof(policies -> 'retention')
               when 'null' then null
               when 'number' then make_interval(secs => least(greatest((policies ->> 'retention')::float8, 0), 1e10))
               else usual
           end
$$;
