-- What follows when a thread fails: the nearest on_error takes it up, or continue_on_error, or a node with a retry of its
-- own begins anew; else the fork it belongs to fails; else the instance is on its way to its end (`ending`), by what is
-- `left` to run: its compensations, the latest first, and the workflow's handler.
--
-- Arguments: `error`: what `$error` is in a handler; `from_frame`: how many of the thread's frames may still take it up (a
-- timeout of a node around: those outside); `usual`: see retry_wait; `handler`: where the workflow's handler stands.
create or replace function @extschema@.run_fail(
    state jsonb, thread text, error jsonb, usual jsonb, handler int, from_frame int default null)
returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    failing jsonb;
    frames jsonb;
    frame jsonb;
    own jsonb;
    fork jsonb;
    later float8;
    given jsonb := @extschema@.env_entry(error);
begin
    loop
        failing := state #> array['threads', thread];
        if failing #>> '{wait,k}' = 'join' then
            state := @extschema@.run_drop(state, failing #>> '{wait,j}');
        end if;
        frames := coalesce(failing -> 'fr', '[]');
        while from_frame < jsonb_array_length(frames) loop
            frames := frames - -1;
        end loop;
        from_frame := null;
        own := coalesce(failing -> 'env', '{}') || jsonb_build_object('error', given);
        failing := failing - '{wait,att,seq}'::text[];
        while jsonb_array_length(frames) > 0 loop
            frame := frames -> -1;
            frames := frames - -1;
            case frame ->> 'k'
            when 'catch', 'continue' then
                if frame ? 'into' then
                    own := own || jsonb_build_object(frame ->> 'into', @extschema@.env_entry('null'));
                end if;
                return jsonb_set(state, array['threads', thread], failing || jsonb_build_object(
                    'pc', frame -> 'h', 'fr', frames, 'last', null, 'env', own));
            when 'retry' then
                later := @extschema@.retry_wait(frame -> 'retry', usual, (frame ->> 'a')::int, error ->> 'sqlstate');
                if later is not null then
                    return jsonb_set(state, array['threads', thread], failing || jsonb_build_object(
                        'pc', frame -> 'pc', 'last', null, 'env', own,
                        'fr', frames || (frame || jsonb_build_object('a', (frame ->> 'a')::int + 1)),
                        'wait', jsonb_build_object('k', 'retry', 'due',
                                                   extract(epoch from clock_timestamp()) + later)));
                end if;
            else
                null;
            end case;
        end loop;
        exit when not failing ? 'up';
        fork := state #> array['joins', failing ->> 'up'];
        state := @extschema@.run_drop(state, failing ->> 'up');
        thread := fork ->> 'thread';
        state := state #- array['threads', thread, 'wait'];
    end loop;
    if state ? 'ending' then
        -- A compensation, or the handler: the others run all the same.
        state := jsonb_set(state, '{ending,error,not_undone}',
                           coalesce(state #> '{ending,error,not_undone}', '[]') || jsonb_build_array(error));
    else
        state := @extschema@.run_ending(state, 'failed', error, handler);
    end if;
    return @extschema@.run_next_left(state);
end
$$;
