-- Lets a role use this schema. With the caller's own rights: it needs each right with the option to grant it.
--
-- Arguments: `include_http`: df.http and df.http_multipart too. `with_grant`: with the option to grant, and df.grant_usage,
-- df.revoke_usage and df.metrics too. Also lets pumps run steps as that role, where the caller may say so.
create or replace function df.grant_usage(p_role text, include_http boolean default false, with_grant boolean default false)
returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    option text := case when with_grant then ' with grant option' else '' end;
    right_to text;
begin
    foreach right_to in array df._rights(include_http, with_grant) loop
        execute format('grant %s to %s%s', right_to, df._grantee(p_role), option);
    end loop;
    if lower(p_role) <> 'public' then
        begin
            perform @extschema@.admit_submitter(p_role);
        exception when insufficient_privilege then
            raise notice 'steps of % run when an administrator has called @extschema@.admit_submitter(%)', p_role,
                quote_literal(p_role);
        end;
    end if;
end
$$;
