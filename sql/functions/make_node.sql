-- A node of what a composing function was given: without the fields that are null, normalized and checked (not its children,
-- which have been). Raises: PGD05.
create or replace function @extschema@.make_node(fields jsonb)
returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    made jsonb := @extschema@.normalize((select jsonb_object_agg(f.key, f.value) from jsonb_each(fields) as f where f.value <> 'null'));
    wrong record;
begin
    select c.problem, c.hint into wrong from @extschema@.check_node(made) as c limit 1;
    if found then
        raise exception using errcode = 'PGD05', message = format('in a node %s: %s', made ->> 'op', wrong.problem),
            detail = left(made::text, 500), hint = wrong.hint;
    end if;
    return made;
end
$$;
