-- The statement that a `call` node stands for: its function or procedure with its arguments; "$ref" strings stand as
-- references, also within texts, arrays and objects, all else as literals, which PostgreSQL gives the types of the parameters.
--
-- Arguments: the node; the search_path under which the function is looked for. One that is not there yet may come later.
-- Raises: PGD05 the name is none, or the arguments are neither an array nor an object.
create or replace function @extschema@.call_text(node jsonb, path text) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    part constant text := '([a-zA-Z_\u0080-\uffff][\w$\u0080-\uffff]*|"([^"]|"")+")';
    called text := node ->> 'function';
    name text := btrim(regexp_replace(called, '\(.*$', ''));
    args jsonb := coalesce(node -> 'args', '[]');
    routine oid;
    types text[];
    modes text[];
    names text[];
    is_procedure boolean;
    written text[] := '{}';
    arg record;
    place int;
    type text;
begin
    if name is null or name !~ ('^' || part || '(\.' || part || ')?$') then
        raise exception using errcode = 'PGD05', message = format('%L is no name of a function', called),
            hint = 'Give schema.function, or schema.function(type, type) where there are several of that name.';
    end if;
    if jsonb_typeof(args) not in ('array', 'object') then
        raise exception using errcode = 'PGD05',
            message = format('the args of call %s are a JSON %s', called, jsonb_typeof(args)),
            hint = 'Give an array, or an object by parameter name.';
    end if;
    routine := @extschema@.routine_of(called, path);
    select array(select format_type(t.oid, null) from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]))
                 with ordinality as t (oid, n) order by t.n),
           p.proargnames, p.prokind = 'p'
      into types, names, is_procedure
      from pg_proc p where p.oid = routine;
    for arg in
        select a.value, null::text as key, a.n::int as n from jsonb_array_elements(
            case jsonb_typeof(args) when 'array' then args else '[]' end) with ordinality as a (value, n)
        union all
        select o.value, o.key, null from jsonb_each(case jsonb_typeof(args) when 'object' then args else '{}' end) o
    loop
        place := coalesce(arg.n, array_position(names, arg.key));
        type := types[place];
        written := written || (case when arg.key is null then '' else quote_ident(arg.key) || ' => ' end
            || case
                when type = 'jsonb' and jsonb_typeof(arg.value) = 'string' and arg.value #>> '{}' ~ '^\$[a-zA-Z_][\w.]*\??$' then
                    -- The value itself: the text of a string is no JSON.
                    format('jsonb_path_query_first(%s, ''$'')', arg.value #>> '{}')
                when jsonb_typeof(arg.value) = 'string' and arg.value #>> '{}' ~ '^\$[a-zA-Z_][\w.]*\??$' then
                    (arg.value #>> '{}') || case when type is null then '' else '::' || type end
                when jsonb_typeof(arg.value) = 'null' then 'null' || case when type is null then '' else '::' || type end
                when jsonb_typeof(arg.value) in ('number', 'boolean') and type is distinct from 'jsonb' then
                    arg.value #>> '{}'
                when jsonb_typeof(arg.value) = 'array' and type like '%[]' then
                    format('array(select v from jsonb_array_elements_text(%s) as e (v))::%s',
                           @extschema@.call_value(arg.value), type)
                when jsonb_typeof(arg.value) = 'string' and type is distinct from 'jsonb' then
                    format('(%s)', @extschema@.call_word(arg.value #>> '{}')) || coalesce('::' || type, '')
                when jsonb_typeof(arg.value) in ('object', 'array', 'string') and (type is null or type = 'jsonb') then
                    @extschema@.call_value(arg.value)
                when jsonb_typeof(arg.value) in ('object', 'array') then
                    format('(%s)::text::%s', @extschema@.call_value(arg.value), type)
                else @extschema@.dollar_quoted(arg.value::text) || coalesce('::' || type, '')
               end);
    end loop;
    return format(case when is_procedure then 'call %s(%s)' else 'select * from %s(%s)' end,
                  name, array_to_string(written, ', '));
end
$$;
