-- What follows when a thread meets a break that no loop of its own is around: its fork is over, its siblings are dropped, and
-- the loop around the fork is left, by however many forks it is further up. What the branch has named is kept, as at the
-- fork's end.
--
-- Returns: the state, in which the thread of that loop goes on behind it with `result`; null: there is no such loop.
create or replace function @extschema@.run_break(state jsonb, thread text, result jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    leaving jsonb := state #> array['threads', thread];
    fork jsonb;
    frames jsonb;
    named jsonb;
begin
    while leaving ? 'up' loop
        fork := state #> array['joins', leaving ->> 'up'];
        named := case when fork ->> 'k' <> 'for_each' then coalesce(leaving -> 'env', '{}') - 'error'::text else '{}' end;
        state := @extschema@.run_drop(state, leaving ->> 'up');
        thread := fork ->> 'thread';
        leaving := state #> array['threads', thread];
        if thread = '0' and not state ? 'ending' then
            state := jsonb_set(state, '{env}', (state -> 'env') || named);
        else
            leaving := leaving || jsonb_build_object('env', coalesce(leaving -> 'env', '{}') || named);
        end if;
        frames := coalesce(leaving -> 'fr', '[]');
        while jsonb_array_length(frames) > 0 loop
            if frames -> -1 ->> 'k' = 'loop' then
                return jsonb_set(state, array['threads', thread], (leaving - '{wait,att,seq}'::text[])
                    || jsonb_build_object('pc', frames -> -1 -> 'x', 'fr', frames - -1, 'last', coalesce(result, 'null')));
            end if;
            frames := frames - -1;
        end loop;
        state := jsonb_set(state, array['threads', thread], leaving);
    end loop;
    return null;
end
$$;
