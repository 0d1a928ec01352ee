-- For fork: gives a copy of an instance of a workflow in SQL what it goes on from: as retry would, what the failed original
-- has kept; else the copied history, which it replays when it is taken up (run_feed).
create or replace function @extschema@.copy_run(source uuid, copy uuid, place int, as_retry boolean) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into @extschema@.sql_runs (instance_id, state)
    select copy, r.state from @extschema@.sql_runs r
     where r.instance_id = source and as_retry and r.state ? 'ended'
    union all
    select copy, '{"replay": true}' from @extschema@.instances i
      join @extschema@.workflows w on w.name = i.workflow and w.version = i.version and w.kind = 'sql'
     where i.id = source and not as_retry and place > 1
$$;
