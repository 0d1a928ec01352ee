-- Runs the statement of an instruction: its references are looked at, then it is run by whoever may.
--
-- Raises: PGD20 a reference leads to nothing; and whatever the statement raises.
create or replace function @extschema@.run_step(
    target uuid, ins jsonb, env jsonb, path text, runner text, workflow text)
returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    statement text := ins ->> 'q';
    place text[];
    late boolean := ins ? 'late';
    result jsonb;
begin
    if ins ? 's' then
        for n in 0 .. jsonb_array_length(ins -> 's') - 1 loop
            place := ins -> 's' ->> n;
            if env #>> place is null then
                raise exception using errcode = 'PGD20',
                    message = format('step %s of workflow %s (instance %s): $%s is null, or is not there', ins ->> 'name', workflow,
                                     target, place[1] || case when place[2] = 'f' then '.' || array_to_string(place[3:], '.')
                                                              when place[2] = 'r' then '.*' else '' end),
                    hint = format('Where nothing is meant to be there, write $%s? and it is null.', place[1]);
            end if;
        end loop;
    end if;
    if ins ? 'k' then
        -- In a string: a name that there is needs a value; another stays as it is written.
        for n in 0 .. jsonb_array_length(ins -> 'k') - 1 loop
            place := ins -> 'k' ->> n;
            if env #>> place is null and env ? place[1] then
                perform @extschema@.no_value(place, env);
            end if;
        end loop;
    end if;
    if ins ? 'i' then
        for n in 0 .. jsonb_array_length(ins -> 'i') - 1 loop
            place := ins -> 'i' ->> n;
            if env #>> place !~ '^-?[0-9]{1,18}$' and jsonb_typeof(env #> place) = 'number' then
                -- Where whole numbers were expected stands another: the types are chosen by the values.
                late := true;
                statement := ins ->> 'iq';
            end if;
        end loop;
    end if;
    if late then
        -- The server plans the statement to find its types, and runs what is constant in it: as whoever the step belongs to.
        if runner is null then
            statement := @extschema@.bind_late(statement, env, path);
        else
            execute runner into result
              using 'select @extschema@.bind_late($1 ->> ''q'', $1 -> ''env'', $1 ->> ''path'') as q',
                    jsonb_build_object('q', statement, 'env', env, 'path', path), false, 'pg_catalog, pg_temp';
            statement := result #>> '{rows,0,q}';
        end if;
        if ins ? 'tag' then
            statement := @extschema@.tagged(statement, ins ->> 'tag');
        end if;
    end if;
    if runner is null then
        result := @extschema@.run_statement(statement, env, ins ? 'plain', path);
    else
        execute runner into result using statement, env, ins ? 'plain', path;
    end if;
    -- A statement that sets the session's search_path would hand it to all functions around it: until here no name is
    -- resolved but in full. work puts the session's own back.
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
    return result;
end
$$;
