-- The value of a variable of the caller; null: there is none.
create or replace function df.getvar(name text) returns text
language sql stable security definer strict
set search_path = pg_catalog, pg_temp
as $$
    select v.value from df.vars v where v.name = getvar.name and v.owner = quote_ident(@extschema@.caller())::regrole
$$;
