-- Puts a state on its way to an end other than completed: what is `left` to run are the compensations that have been
-- noted, the latest first, then the workflow's handler (null: there is none).
create or replace function @extschema@.run_ending(state jsonb, status text, error jsonb, handler int) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select (state - '{undo,joins}'::text[]) || jsonb_build_object(
        'threads', '{}'::jsonb,
        'ending', jsonb_build_object('status', status, 'error', error),
        'left', coalesce((select jsonb_agg(u.value order by u.n desc)
                            from jsonb_array_elements(state -> 'undo') with ordinality as u (value, n)), '[]')
                || case when handler is null then '[]' else jsonb_build_array(jsonb_build_object(
                       'pc', handler, 'env', jsonb_build_object('error', @extschema@.env_entry(error)))) end)
$$;
