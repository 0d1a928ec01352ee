-- What a node of a definition asks of whoever runs it outside the database, with the variables it refers to put in.
--
-- Secrets are taken from the definition alone: their places go along in `secrets`, and what only looks like one, in data
-- that a variable brings, stays data.
-- Arguments: `node` has the op python, http or external; `env` is as of `resolve`.
create or replace function @extschema@.task_request(node jsonb, env jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    asked jsonb;
begin
    case node ->> 'op'
    when 'python' then
        asked := jsonb_build_object('args', coalesce(node -> 'args', '[]'), 'kwargs', coalesce(node -> 'kwargs', '{}'));
        return @extschema@.resolve(asked, env);
    when 'http' then
        asked := jsonb_build_object('url', node -> 'url') || coalesce((
            select jsonb_object_agg(f.key, f.value) from jsonb_each(node) f where f.key in ('headers', 'body', 'query')), '{}');
        return @extschema@.resolve(asked, env) || coalesce((
                select jsonb_object_agg(f.key, f.value)
                  from jsonb_each(node) f
                 where f.key in ('method', 'ok', 'max_bytes', 'at_most_once')), '{}')
            || coalesce(jsonb_build_object('secrets', @extschema@.secret_places(asked)), '{}');
    when 'external' then
        return jsonb_build_object('input', @extschema@.resolve(coalesce(node -> 'input', 'null'), env))
            || case when node @> '{"at_most_once": true}' then '{"at_most_once": true}'::jsonb else '{}' end;
    end case;
end
$$;
