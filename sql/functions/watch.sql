-- What the supervisor of pumps does, for who has no `pgdurable worker`: several times a second it stops statements that run
-- over their step's timeout or whose instance was cancelled, and now and then gives back tasks of workers that have ended.
--
-- It commits after each look, so it cannot be called within a transaction; everything here is named in full. One is enough,
-- more do no harm.
-- Arguments: `max_time`: when it ends; null: never.
create or replace procedure @extschema@.watch(max_time interval default interval '1 minute')
language plpgsql
as $$
declare
    until timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) max_time;
    looks int := 0;
begin
    loop
        perform @extschema@.stop_overdue();
        if looks operator(pg_catalog.%) 10 operator(pg_catalog.=) 0 then
            perform @extschema@.free_tasks();
        end if;
        commit;
        exit when pg_catalog.clock_timestamp() operator(pg_catalog.>=) until;
        perform pg_catalog.pg_sleep(0.2);
        looks := looks operator(pg_catalog.+) 1;
    end loop;
end
$$;
