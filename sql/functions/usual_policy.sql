-- What holds for steps and instances where their definition says nothing, by the settings: as the `retry` of a node, and
-- `step_timeout` and `workflow_timeout` in seconds (null: none), `max_parallel`.
create or replace function @extschema@.usual_policy() returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
        'max_attempts', @extschema@.setting('max_attempts')::int,
        'initial', extract(epoch from @extschema@.setting('retry_initial')::interval),
        'multiplier', @extschema@.setting('retry_multiplier')::float8,
        'max_interval', extract(epoch from @extschema@.setting('retry_max_interval')::interval),
        'jitter', @extschema@.setting('retry_jitter')::float8,
        'step_timeout', extract(epoch from @extschema@.setting('step_timeout')::interval),
        'workflow_timeout', extract(epoch from @extschema@.setting('workflow_timeout')::interval),
        'max_parallel', @extschema@.setting('max_parallel')::int)
$$;
