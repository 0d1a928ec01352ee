-- Runs workflows in SQL, in this session: a pump. It claims instances that are due, runs their steps, each as the role that
-- submitted it, and commits step, checkpoint and state together. Any number of pumps may run at once, from any client, from
-- pg_cron, from psql's \watch, or from `pgdurable worker --pumps`.
--
-- Arguments: `max_time`, `max_steps`: when it ends at the latest, between two steps; `wait`: whether it waits for more until
-- then; else it ends once nothing is due. `queues`: those it takes instances of; null: all.
-- It commits, so it cannot be called inside a transaction. A cancelled step is run again: who cancels the call ends it.
-- What it was doing when its session or the server dies is undone, and done by whichever pump comes next.
-- Raises: PGD05 an argument is none.
create or replace procedure @extschema@.work(
    max_time interval default interval '1 minute', max_steps bigint default null, wait boolean default false,
    queues text[] default null)
language plpgsql
as $$
declare
    pump pg_catalog.jsonb;
    path pg_catalog.text := pg_catalog.current_setting('search_path');
begin
    commit;
    set transaction isolation level read committed;
    pump := @extschema@.pump_begin(max_time, max_steps, wait, queues);
    commit;
    while @extschema@.pump_goes_on(pump) loop
        set transaction isolation level read committed;
        pump := @extschema@.pump_turn(pump);
        perform pg_catalog.set_config('search_path', path, false);
        commit;
    end loop;
    set transaction isolation level read committed;
    perform @extschema@.pump_end(pump);
    commit;
end
$$;
