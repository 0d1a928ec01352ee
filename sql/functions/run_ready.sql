-- Gives what threads wait for and has come: the time, and signals that lie in the inbox, each to the first that waits for its
-- name. Returns: the state; null where nothing has changed.
create or replace function @extschema@.run_ready(state jsonb) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
    place int;
    got jsonb;
    changed boolean := false;
    at float8 := extract(epoch from clock_timestamp());
begin
    for one in
        select t.key, t.value -> 'wait' as wait from jsonb_each(state -> 'threads') t
         where t.value #>> '{wait,k}' in ('signal', 'timer', 'retry') and t.value #> '{wait,got}' is null
         order by t.key::int
    loop
        got := null;
        if one.wait ->> 'k' = 'signal' and state ? 'inbox' then
            select s.n - 1, jsonb_build_object('what', 'signal', 'name', s.value -> 'name', 'payload', s.value -> 'payload')
              into place, got
              from jsonb_array_elements(state -> 'inbox') with ordinality as s (value, n)
             where s.value ->> 'name' = one.wait ->> 'name' order by s.n limit 1;
            if got is not null then
                state := jsonb_set(state, '{inbox}', (state -> 'inbox') - place);
            end if;
        end if;
        if got is null and (one.wait ->> 'due')::float8 <= at then
            got := case one.wait ->> 'k' when 'retry' then '{}'::jsonb else jsonb_build_object('what', one.wait -> 'k', 'timed_out', true) end;
        end if;
        if got is not null then
            state := jsonb_set(state, array['threads', one.key, 'wait', 'got'], got);
            changed := true;
        end if;
    end loop;
    return case when changed then state end;
end
$$;
