-- Removes all variables of the caller.
create or replace function df.clearvars() returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if df._in_workflow() then
        raise exception using errcode = '55000', message = 'df.clearvars() cannot be called inside a workflow',
            hint = 'What df.start() took stays as it was.';
    end if;
    delete from df.vars v where v.owner = quote_ident(@extschema@.caller())::regrole;
    perform df._helper('df.clearvars');
    return 'OK';
end
$$;
