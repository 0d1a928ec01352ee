-- A result as this schema shows it: a set of rows without the names of its columns.
create or replace function df._shape(value jsonb) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    found_value jsonb;
begin
    if jsonb_typeof(value) = 'object' then
        return case when value ? 'row_count' then '{"rows": []}' || (value - 'columns') else value end;
    elsif jsonb_typeof(value) = 'array'
          and value @? '$[*] ? (@.type() == "object" && exists(@.row_count) || @.type() == "array")'
    then
        select jsonb_agg(df._shape(e.value) order by e.n) into found_value
          from jsonb_array_elements(value) with ordinality as e (value, n);
        return found_value;
    end if;
    return value;
end
$$;
