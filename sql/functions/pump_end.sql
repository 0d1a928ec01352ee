-- What work ends with.
create or replace function @extschema@.pump_end(pump jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform @extschema@.pump_assert(pump -> 'settings');
    perform @extschema@.pump_leave((pump ->> 'me')::bigint);
    perform set_config('application_name', current_setting('pgdurable.pump_name'), false);
end
$$;
