-- What to execute for a step now: of a bound query the statement over $1 = `env`, whose values it looks at only for this:
--
-- that what has to be there is, and not null; and that the types fit (`late`, `ints`).
-- Arguments: what `bind` returned; the query and search_path it was given; the environment.
-- Raises: PGD20 a reference without a value, by name.
create or replace function @extschema@.fit(bound jsonb, query text, env jsonb, search_path text default null)
returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one jsonb;
    path text[];
begin
    for one in select p from jsonb_array_elements((bound -> 'strict')
                 || (select coalesce(jsonb_agg(k), '[]') from jsonb_array_elements(bound -> 'known') as k where env ? (k ->> 0))) as p loop
        path := array(select jsonb_array_elements_text(one));
        if coalesce(env #> path, 'null') = 'null' then
            perform @extschema@.no_value(path, env);
        end if;
    end loop;
    if (bound ->> 'late')::boolean then
        return @extschema@.bind_late(query, env, search_path);
    end if;
    for one in select p from jsonb_array_elements(bound -> 'ints') as p loop
        if @extschema@.value_type(env #> array(select jsonb_array_elements_text(one))) = 1700 then
            return @extschema@.bind_late(query, env, search_path);
        end if;
    end loop;
    return bound ->> 'text';
end
$$;
