-- As wait, for long: it commits before each look, so it holds up nothing, and cannot be called within a transaction.
--
-- What commits cannot have a search_path of its own, so everything here is named in full.
-- Arguments: `timeout` null: for ever. `status` gives the outcome; pass null: `call wait_for_end('order/o-1', '1 day', null)`.
-- Returns: completed, failed, cancelled or timed_out; else it has not ended.
-- Raises: PGD02 no such instance.
create or replace procedure @extschema@.wait_for_end(id text, timeout interval, inout status text default null)
language plpgsql
as $$
declare
    until timestamptz := pg_catalog.clock_timestamp() operator(pg_catalog.+) timeout;
    pause float8 := 0.002;
begin
    loop
        status := @extschema@.status(id);
        exit when status operator(pg_catalog.=) any ('{completed,failed,cancelled,timed_out}'::pg_catalog.text[])
               or pg_catalog.clock_timestamp() operator(pg_catalog.>=) until;
        commit;
        perform pg_catalog.pg_sleep(pause);
        if pause operator(pg_catalog.<) 0.5::pg_catalog.float8 then
            pause := pause operator(pg_catalog.*) 1.3::pg_catalog.float8;
        end if;
    end loop;
end
$$;
