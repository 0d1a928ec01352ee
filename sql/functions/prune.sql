-- Removes what `pgdurable prune` would, from SQL: `call prune('30 days')`, for pg_cron and the like. Without an argument,
-- what the retentions say. It commits after each small step, so it cannot be called within a transaction.
--
-- It deletes history row by row; whole partitions are dropped by workers and by `pgdurable prune`. What commits cannot
-- have a search_path of its own, so everything here is named in full.
create or replace procedure @extschema@.prune(older_than interval default null)
language plpgsql
as $$
declare
    place uuid := '00000000-0000-0000-0000-000000000000';
    edge uuid;
    step record;
    n int;
begin
    select b.before into edge from @extschema@.sweep_bounds(older_than) b;
    while edge is not null loop
        select s.* into step from @extschema@.sweep(place, edge, 500, older_than) s;
        exit when not found or step.last is null;
        commit;
        perform pg_catalog.pg_sleep(0.01);
        place := @extschema@.id_after(step.last);
    end loop;
    place := '00000000-0000-0000-0000-000000000000';
    while edge is not null loop
        select s.* into step from @extschema@.sweep_orphans(place, edge, 500, 5000) s;
        exit when step.looked is null or step.looked operator(pg_catalog.=) 0;
        commit;
        perform pg_catalog.pg_sleep(0.01);
        place := coalesce(@extschema@.id_after(step.last), place);
    end loop;
    loop
        n := @extschema@.sweep_events(5000);
        commit;
        exit when n operator(pg_catalog.<) 5000;
    end loop;
end
$$;
