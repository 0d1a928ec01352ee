-- Takes a schema that `pgdurable migrate` made for an extension's; an update to the version it is at takes in what it holds.
do $$
begin
    if to_regclass('@extschema@.migrations') is null then
        raise exception 'there is no schema @extschema@ of pgdurable' using hint = 'create extension pgdurable;';
    end if;
end
$$;
