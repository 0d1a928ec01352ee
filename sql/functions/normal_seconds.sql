-- A node in which this field, where it holds an interval as text, holds its seconds.
create or replace function @extschema@.normal_seconds(node jsonb, field text[])
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(node #> field) is distinct from 'string' or strpos(node #>> field, '$') > 0 then
        return node;
    end if;
    return jsonb_set(node, field, to_jsonb(extract(epoch from (node #>> field)::interval)::float8));
exception when invalid_datetime_format or datetime_field_overflow or interval_field_overflow then
    return node;
end
$$;
