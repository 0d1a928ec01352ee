-- A text as JSON: what it says if it is JSON, else the text itself.
create or replace function df._json(value text) returns jsonb
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(value::jsonb, 'null');
exception when others then
    return to_jsonb(value);
end
$$;
