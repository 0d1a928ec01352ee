-- Puts back what steps have left changed in the session. Called before each commit.
create or replace function @extschema@.pump_assert(settings jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    now_set jsonb := @extschema@.pump_settings();
begin
    if now_set <> settings then
        perform set_config(s.key, s.value, false)
           from jsonb_each_text(settings) s
          where now_set ->> s.key is distinct from s.value
          order by s.key <> 'role';
    end if;
end
$$;
