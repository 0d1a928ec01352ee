-- Takes from a role what df.grant_usage gave it, as far as the caller gave it.
create or replace function df.revoke_usage(p_role text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    right_to text;
begin
    foreach right_to in array df._rights(true, true) loop
        begin
            execute format('revoke %s from %s cascade', right_to, df._grantee(p_role));
        exception when insufficient_privilege then
            if right_to like '%schema df' then
                raise;
            end if;
        end;
    end loop;
end
$$;
