-- JSON with references as JSON with values: in its strings, however deep, `"$x"`, `"$x.f"`, `"$x.*"` (rows, as an array) become
-- the values themselves, and `"for $x.name"` a text. `"$$x"` is the text $x. A name in a longer text that no variable has stays.
--
-- Arguments: as they stand in a definition (arguments of a call, the input of a child, ...); the environment.
-- Raises: PGD20 a reference without a value; with `?` behind it, it is null, in a longer text nothing.
create or replace function @extschema@.resolve(value jsonb, env jsonb)
returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    text constant text := value #>> '{}';
    m text[];
    ref text[];
    path text[];
    found jsonb;
    made text := '';
    at int := 1;
    whole boolean;
begin
    case jsonb_typeof(value)
    when 'object' then
        return (select coalesce(jsonb_object_agg(e.key, @extschema@.resolve(e.value, env)), '{}') from jsonb_each(value) as e);
    when 'array' then
        return (select coalesce(jsonb_agg(@extschema@.resolve(u.e, env) order by u.n), '[]')
                  from jsonb_array_elements(value) with ordinality as u (e, n));
    when 'string' then
        if strpos(text, '$') = 0 then
            return value;
        elsif starts_with(text, repeat('$', 2)) then
            return to_jsonb(substr(text, 2));
        end if;
    else
        return value;
    end case;
    for m in select regexp_matches(text collate "C",
            '([^$]+|\$(?!(?:[A-Za-z_]|[^\x01-\x7f])))|\$((?:[A-Za-z_]|[^\x01-\x7f])(?:[A-Za-z0-9_]|[^\x01-\x7f])*'
            '(?:\.(?:[A-Za-z0-9_]|[^\x01-\x7f])+)*)(\.\*)?(\?)?', 'g') loop
        if m[1] is not null then
            made := made || m[1];
            continue;
        end if;
        ref := string_to_array(m[2], '.');
        whole := text = '$' || m[2] || coalesce(m[3], '') || coalesce(m[4], '');
        if not whole and not env ? ref[1] then
            made := made || '$' || m[2] || coalesce(m[3], '') || coalesce(m[4], '');
            continue;
        end if;
        path := case when cardinality(ref) > 1 then array[ref[1], 'f'] || ref[2:] when m[3] is not null then array[ref[1], 'r']
                     else array[ref[1], 'v'] end;
        found := env #> path;
        if coalesce(found, 'null') = 'null' and m[4] is null then
            perform @extschema@.no_value(path, env);
        end if;
        if whole then
            return coalesce(found, 'null');
        end if;
        made := made || coalesce(found #>> '{}', '');
    end loop;
    return to_jsonb(made);
end
$$;
