-- Partitions of history are no part of the extension: they come and go, and a dump has them as tables. Whoever works makes
-- them, so a database that is restored from a dump has those of the dump. The key comes with them: see migration 23.
do $$
declare
    part record;
begin
    for part in select i.inhrelid::regclass as name from pg_inherits i where i.inhparent = '@extschema@.history'::regclass loop
        execute format('drop table %s', part.name);
    end loop;
end
$$;

alter table @extschema@.history drop constraint history_pkey;
