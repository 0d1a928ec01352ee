-- What `instances.hold` says of an instance that waits for other starts before it begins: debounced ones with this key, or
-- (key null) the inputs of a batch, which are the caller's own.
create or replace function @extschema@.gathering_key(workflow text, version text, partition text, key text) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_array('gather', workflow, version, coalesce(partition, ''), key,
                             case when key is null then @extschema@.caller() end)::text
$$;
