-- Removes a variable of the caller.
create or replace function df.unsetvar(name text) returns text
language plpgsql volatile security definer strict
set search_path = pg_catalog, pg_temp
as $$
begin
    if df._in_workflow() then
        raise exception using errcode = '55000', message = 'df.unsetvar() cannot be called inside a workflow',
            hint = 'What df.start() took stays as it was.';
    end if;
    delete from df.vars v where v.name = unsetvar.name and v.owner = quote_ident(@extschema@.caller())::regrole;
    perform df._helper('df.unsetvar');
    return 'OK';
end
$$;
