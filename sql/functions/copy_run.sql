-- For fork: gives a copy what the failed original, an instance of a workflow in SQL, would go on from.
create or replace function @extschema@.copy_run(source uuid, copy uuid, place int, as_retry boolean) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into @extschema@.sql_runs (instance_id, state)
    select copy, r.state from @extschema@.sql_runs r
     where r.instance_id = source and as_retry and r.state ? 'ended'
$$;
