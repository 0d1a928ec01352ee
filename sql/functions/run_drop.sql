-- Takes the threads of a join out of a state, and theirs in turn.
create or replace function @extschema@.run_drop(state jsonb, joined text) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
begin
    for one in select t.key, t.value from jsonb_each(state -> 'threads') t where t.value ->> 'up' = joined loop
        state := state #- array['threads', one.key];
        if one.value #>> '{wait,k}' = 'join' then
            state := @extschema@.run_drop(state, one.value #>> '{wait,j}');
        end if;
    end loop;
    return state #- array['joins', joined];
end
$$;
