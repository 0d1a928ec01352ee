-- Names the result of a step, for $name in those after it. As fut |=> name.
--
-- Raises: 42602 for what is no name.
create or replace function df.as(fut text, name text) returns text
language plpgsql stable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if name !~ '^[A-Za-z_][A-Za-z0-9_]*$' then
        raise exception using errcode = '42602', message = format('df.as: %L is not a valid identifier', name),
            hint = 'A name has letters, digits and underscores, and does not begin with a digit.';
    end if;
    return (df._ensure(fut) || jsonb_build_object('result_name', name))::text;
end
$$;
