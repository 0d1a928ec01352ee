-- The script is for one version.
do $$
declare
    found int := (select max(m.version) from @extschema@.migrations m);
begin
    if found is distinct from @before@ then
        raise exception 'schema @extschema@ is at version %, this script is for version @before@', found
            using hint = 'Bring it to version @before@ first: pgdurable migrate --schema @extschema@.';
    end if;
end
$$;
