-- An operation on all instances that fit, from SQL: `call bulk('cancel', '{"workflow": "mail", "status": ["waiting"]}')`.
-- It commits after each small step, so it cannot be called within a transaction; interrupted, it can be called again.
--
-- `older_than`, `newer_than`: started so long ago, or less. Other arguments: as bulk_step.
-- What commits cannot have a search_path of its own, so everything here is named in full.
-- Returns: how many it was carried out on, and how many somebody held all the time.
create or replace procedure @extschema@.bulk(
    operation text, fits jsonb, options jsonb default '{}', older_than interval default null,
    newer_than interval default null, inout done bigint default 0, inout held bigint default 0)
language plpgsql
as $$
declare
    -- What begins later is not meant: a fork must not be forked.
    edge uuid := @extschema@.id_at(pg_catalog.now() operator(pg_catalog.-) coalesce(older_than, '0'));
    place uuid := case when newer_than is null then '00000000-0000-0000-0000-000000000000'
                       else @extschema@.id_at(pg_catalog.now() operator(pg_catalog.-) newer_than) end;
    step record;
begin
    done := 0;
    held := 0;
    loop
        select s.* into step from @extschema@.bulk_step(operation, place, edge, fits, options) s;
        exit when step.last is null;
        done := done operator(pg_catalog.+) step.done;
        held := held operator(pg_catalog.+) pg_catalog.cardinality(step.busy);
        commit;
        perform pg_catalog.pg_sleep(0.005);
        place := @extschema@.id_after(step.last);
        exit when place is null;
    end loop;
end
$$;
