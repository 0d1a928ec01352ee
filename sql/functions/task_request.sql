-- What whoever runs a step outside the database is given: the fields of its node, with its variables put in (`fields`), and
-- how often it may be begun.
--
-- Secrets are those that the definition names. Their places go along, so that data a variable brings stays data, whatever
-- it looks like.
create or replace function @extschema@.task_request(ins jsonb, fields jsonb) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select fields - '{timeout,queue,step,secrets,max_attempts}'::text[]
        || jsonb_build_object('max_attempts', (@extschema@.usual_policy() || coalesce(ins -> 'retry', '{}')) -> 'max_attempts')
        || case when ins ->> 'o' = 'http' then jsonb_build_object('secrets', @extschema@.secret_places(ins -> 'a')) else '{}' end
$$;
