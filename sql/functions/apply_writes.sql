-- What is written seldom, in the same commit as the history rows that led to it: one call per flush that has any.
--
-- One element per write in each array: the instance, the kind of write, a number and a JSON text that mean what the
-- kind says. A batch may be sent again, so every kind is written so that a second time changes nothing.
-- A procedure, because it gives no rows.
-- Locks: what the kinds' functions say.
-- Raises: PGD08 for a kind that this schema does not know; what the kinds' functions raise.
create or replace procedure @extschema@.apply_writes(
    worker bigint, ids uuid[], kinds text[], places int[], bodies jsonb[])
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    for n in 1 .. array_length(ids, 1) loop
        case kinds[n]
            when 'child' then
                perform @extschema@.write_child(ids[n], places[n], bodies[n]);
            when 'continue' then
                perform @extschema@.write_continue(ids[n], places[n]);
            when 'cancel' then
                perform @extschema@.request_cancel(ids[n], bodies[n] ->> 'reason');
            when 'send_signal' then
                perform @extschema@.signal(bodies[n] ->> 'id', bodies[n] ->> 'name', bodies[n] -> 'payload',
                                           (bodies[n] ->> 'key')::uuid);
            when 'send_cancel' then
                perform @extschema@.send_cancel(bodies[n]);
            when 'deadline' then
                perform @extschema@.write_deadline(ids[n], bodies[n]);
            when 'event' then
                perform @extschema@.write_event(ids[n], bodies[n]);
            when 'payload' then
                perform @extschema@.write_payload(ids[n], bodies[n]);
            when 'state' then
                perform @extschema@.write_state(ids[n], places[n], bodies[n]);
            when 'stream' then
                perform @extschema@.write_stream(ids[n], places[n], bodies[n]);
            when 'cut_stream' then
                perform @extschema@.cut_stream(ids[n], places[n], bodies[n]);
            when 'update' then
                perform @extschema@.write_update(ids[n], bodies[n]);
            else
                raise exception using errcode = 'PGD08',
                    message = format('a write of kind %L is not known to this schema', kinds[n]),
                    hint = 'The worker is newer than the schema: run `pgdurable migrate`.';
        end case;
    end loop;
end
$$;
