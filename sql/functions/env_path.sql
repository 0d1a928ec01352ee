-- Where the value of a reference is in the environment: of `$x` {x,v}, of `$x.f` {x,f,f}, of `$x.*` {x,r}, of `$x.f.*` {x,f,f}.
create or replace function @extschema@.env_path(part jsonb)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when jsonb_array_length(part -> 'ref') = 1 then
                    jsonb_build_array(part -> 'ref' -> 0, case when part ? 'rows' then 'r' else 'v' end)
                else jsonb_build_array(part -> 'ref' -> 0, 'f') || (part -> 'ref') - 0 end
$$;
