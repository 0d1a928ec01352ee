-- How long ended instances of a workflow are kept; null: for ever. Workers whose code says otherwise set it again when
-- they start. To go back to the setting pgdurable.retention: update workflows set policies = policies - 'retention'.
--
-- Raises: PGD05 no such workflow, or a time that has no sense.
create or replace function @extschema@.set_retention(workflow text, retention interval, version text default null)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if retention < interval '0' then
        raise exception using errcode = 'PGD05', message = format('a retention is not negative, found %s', retention),
            hint = 'Null keeps ended instances for ever.';
    end if;
    update @extschema@.workflows w
       set policies = coalesce(w.policies, '{}')
                      || jsonb_build_object('retention', extract(epoch from set_retention.retention)::float8)
     where w.name = set_retention.workflow and (set_retention.version is null or w.version = set_retention.version);
    if not found then
        raise exception using errcode = 'PGD05',
            message = format('no worker has registered workflow %L%s', workflow, coalesce(' version ' || version, '')),
            hint = 'select name, version from @extschema@.workflows lists those that are.';
    end if;
end
$$;
