-- The schema becomes a part of the extension, and leaves with it.
do $$
declare
    there oid := to_regnamespace('@extschema@');
begin
    if there is null then
        create schema @extschema@;
    elsif to_regclass('@extschema@.migrations') is not null then
        raise exception 'schema @extschema@ was made by pgdurable migrate'
            using hint = 'To make it an extension: pgdurable extension --adopt; or, once it is up to date: '
                         'create extension pgdurable version ''unpackaged''; alter extension pgdurable update;';
    elsif exists (select from pg_depend d where d.refclassid = 'pg_namespace'::regclass and d.refobjid = there) then
        raise exception 'schema @extschema@ is in use for something else'
            using hint = 'Choose another for pgdurable: pgdurable extension --schema NAME.';
    else
        alter extension pgdurable add schema @extschema@;
    end if;
end
$$;
