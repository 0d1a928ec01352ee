-- The error of an instance that somebody ended: `kind` is the last part of its type's name.
create or replace function @extschema@.end_error(kind text, message text, reason text) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object('type', 'pgdurable.errors.' || kind, 'message', message || coalesce(': ' || reason, ''),
                              'reason', reason, 'by', @extschema@.caller())
$$;
