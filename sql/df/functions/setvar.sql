-- Sets a variable of the caller: {name} in the graphs that df.start is given from now on.
create or replace function df.setvar(name text, value text) returns text
language plpgsql volatile security definer strict
set search_path = pg_catalog, pg_temp
as $$
begin
    if df._in_workflow() then
        raise exception using errcode = '55000', message = 'df.setvar() cannot be called inside a workflow',
            hint = 'Set variables before df.start(): it takes them as they are then.';
    end if;
    insert into df.vars as v (name, value, owner)
    values (setvar.name, setvar.value, quote_ident(@extschema@.caller())::regrole)
    on conflict on constraint vars_pkey do update set value = excluded.value;
    perform df._helper('df.setvar');
    return 'OK';
end
$$;
