-- Asks an instance to end, and returns a sentence about it. One that has ended stays as it is. Raises: PGD02 no such instance.
create or replace function df.cancel(instance_id text, reason text default 'Cancelled by user') returns text
language plpgsql volatile security definer strict
set search_path = pg_catalog, pg_temp
as $$
begin
    perform @extschema@.cancel(df._need(instance_id)::text, left(reason, 500));
    return format('Instance %s cancelled: %s', instance_id, reason);
end
$$;
