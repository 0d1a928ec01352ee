-- Sends a signal to an instance. It is kept until the instance waits for it.
--
-- `signal_data` is JSON, else text. To one that has ended nothing is sent. Raises: PGD02 no such instance; PGD05 no name.
create or replace function df.signal(instance_id text, signal_name text, signal_data text default '{}')
returns text
language plpgsql volatile security definer strict
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := df._need(instance_id);
begin
    perform @extschema@.signal(target::text, signal_name, df._json(signal_data));
    return 'OK';
exception when sqlstate 'PGD03' then
    raise notice '%', sqlerrm;
    return 'OK';
end
$$;
