-- Waits for the next time that a cron expression names, in UTC. Raises: PGD05 for what is none.
create or replace function df.wait_for_schedule(cron_expr text) returns text
language plpgsql stable strict parallel safe security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform @extschema@.cron_next(cron_expr, 'UTC', now());
    return jsonb_build_object('node_type', 'WAIT_SCHEDULE', 'query',
                              jsonb_build_object('cron_expr', cron_expr)::text)::text;
end
$$;
