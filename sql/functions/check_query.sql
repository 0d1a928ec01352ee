-- Refuses what is no single statement, closed at its end. Raises PGD05.
create or replace function @extschema@.check_query(scanned jsonb, query text)
returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    problem text := case
        when scanned ->> 'open' is not null then format('%s is not closed', scanned ->> 'open')
        when (scanned ->> 'more')::boolean then 'there is a second statement behind a semicolon'
        when (scanned ->> 'params')::boolean then 'there is a numbered parameter such as $1'
        when scanned ->> 'verb' is null then 'there is no statement in it' end;
begin
    if problem is not null then
        raise exception using errcode = 'PGD05', message = format('in the query of a step %s', problem), detail = query,
            hint = 'A step is one statement; results stand in it as $name, $name.field or $name.*.';
    end if;
end
$$;
