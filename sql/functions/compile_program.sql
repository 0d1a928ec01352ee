-- Compiles a checked definition to what run_instance runs: an object with `code`, a JSON array of instructions (see
-- compile_node), and what is the same for all of them.
--
-- Arguments: the definition, normalized; `policies` as define keeps them.
create or replace function @extschema@.compile_program(name text, version text, definition jsonb, policies jsonb) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    names text[] := array(select coalesce(d.name, nullif(d.path, ''), d.op) from @extschema@.nodes(definition) d order by d.n);
    path text := coalesce(policies ->> 'search_path', '"$user", public');
    about text := replace(replace(format('workflow=%s version=%s', name, version), '*/', '* /'), '/*', '/ *');
    part record;
    code jsonb;
    handler int;
begin
    select * into part from @extschema@.compile_node(definition, 0, 0, names, path, about);
    code := part.code || jsonb_build_object('o', 'end');
    if policies ? 'on_error' then
        handler := jsonb_array_length(code);
        names := names || array(select 'on_error' || coalesce('.' || coalesce(d.name, nullif(d.path, '')), '')
                                  from @extschema@.nodes(policies -> 'on_error') d order by d.n);
        select * into part
          from @extschema@.compile_node(policies -> 'on_error', part.next_n, handler, names, path, about);
        code := code || part.code || jsonb_build_object('o', 'undone');
    end if;
    return jsonb_strip_nulls(jsonb_build_object('path', path, 'on_error', handler)) || jsonb_build_object('code', code);
end
$$;
