-- What an instance publishes under a key; null when it has published nothing there.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.state(id text, key text) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select s.value from @extschema@.states s
             where s.instance_id = @extschema@.need_instance(state.id) and s.key = state.key);
end
$$;
