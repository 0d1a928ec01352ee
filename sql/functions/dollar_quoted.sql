-- A text as a literal in dollar quotes, in which nothing has a meaning: neither quotes nor backslashes nor references.
create or replace function @extschema@.dollar_quoted(written text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    tag text := '$pgd$';
begin
    while strpos(written || '$', tag) > 0 loop
        tag := '$pgd' || length(tag) || '$';
    end loop;
    return tag || written || tag;
end
$$;
