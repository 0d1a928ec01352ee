-- What a part of a sequence adds to it: its own steps if it is a sequence itself, else the part.
create or replace function df._steps(part jsonb) returns jsonb
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case when part ->> 'op' = 'seq' and part - 'op' - 'steps' = '{}' then part -> 'steps'
           else jsonb_build_array(part) end
$$;
