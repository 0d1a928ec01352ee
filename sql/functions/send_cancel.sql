-- Asks another instance to cancel, for workflow code: for apply_writes. One that has ended already is no error.
-- Locks: as request_cancel.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.send_cancel(body jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform @extschema@.request_cancel(@extschema@.need_instance(body ->> 'id'), body -> 'payload' #>> '{}');
end
$$;
