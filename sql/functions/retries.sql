-- A retry policy for nodes, as pgdurable.Retry is one for Python's steps: attempts in all (null: no end), the wait before the
-- second, its growth, the longest wait, the share of it that is random; on which SQLSTATEs or classes of them ('40') only, and
-- on which not. What is left out is as the settings say.
-- Example: @extschema@.retries(8, initial => '500 ms', never_retry_on => '{23}').
create or replace function @extschema@.retries(
    max_attempts int default null, initial interval default null, multiplier double precision default null,
    max_interval interval default null, jitter double precision default null,
    retry_on text[] default null, never_retry_on text[] default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_strip_nulls(jsonb_build_object('max_attempts', max_attempts, 'initial', extract(epoch from initial)::float8,
        'multiplier', multiplier, 'max_interval', extract(epoch from max_interval)::float8, 'jitter', jitter,
        'on', retry_on, 'never_on', never_retry_on))
$$;
