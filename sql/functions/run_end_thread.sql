-- What follows when a thread of a fork has ended with a result: the next of its siblings that wait for room begins, or the
-- fork is over and its own thread goes on. Of a race that is so at the first end, and the others are dropped. What a branch
-- of parallel, or the winner of a race, has named is the forking thread's from then on; of for_each nothing is.
create or replace function @extschema@.run_end_thread(state jsonb, thread text, result jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    ending jsonb := state #> array['threads', thread];
    joined text := ending ->> 'up';
    fork jsonb := state #> array['joins', joined];
    above text := fork ->> 'thread';
    results jsonb;
    going jsonb;
    named jsonb := coalesce(ending -> 'env', '{}') - 'error'::text;
begin
    state := state #- array['threads', thread];
    if fork ->> 'k' <> 'for_each' and named <> '{}' then
        if above = '0' and not state ? 'ending' then
            state := jsonb_set(state, '{env}', (state -> 'env') || named);
        else
            state := jsonb_set(state, array['threads', above, 'env'],
                               coalesce(state #> array['threads', above, 'env'], '{}') || named);
        end if;
    end if;
    if fork ->> 'k' <> 'race' then
        fork := jsonb_set(fork, array['results', ending ->> 'ix'], coalesce(result, 'null'));
        if jsonb_array_length(fork -> 'queue') > 0 then
            going := fork #> '{queue,0}' || jsonb_build_object('up', joined);
            fork := jsonb_set(fork, '{queue}', (fork -> 'queue') - 0);
            state := jsonb_set(state, array['threads', state ->> 'next'], going);
            return jsonb_set(jsonb_set(state, '{next}', to_jsonb((state ->> 'next')::int + 1)), array['joins', joined], fork);
        end if;
        if exists (select from jsonb_each(state -> 'threads') t where t.value ->> 'up' = joined) then
            return jsonb_set(state, array['joins', joined], fork);
        end if;
        select coalesce(jsonb_agg(r.value order by r.key::int), '[]') into results from jsonb_each(fork -> 'results') r;
    else
        state := @extschema@.run_drop(state, joined);
        results := coalesce(result, 'null');
    end if;
    return jsonb_set(state #- array['joins', joined], array['threads', above],
        ((state #> array['threads', above]) - 'wait') || jsonb_build_object('pc', fork -> 'j', 'last', results));
end
$$;
