-- Whether a result counts as true where a workflow asks `if` or `while`.
--
-- Of rows, the first column of the first; no rows, null, a change that returned none: false. A number unless 0; a text unless it is empty, `false`, `f`,
-- `no`, or a number that is 0; an array or object unless it is empty.
create or replace function @extschema@.truthy(value jsonb)
returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(case jsonb_typeof(v)
        when 'boolean' then v::boolean
        when 'number' then v::numeric <> 0
        when 'string' then case
            when btrim(v #>> '{}', E' \t\n\r') ~ '^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$' then
                btrim(v #>> '{}', E' \t\n\r') ~ '^[-+]?[0.]*[1-9]'
            else lower(btrim(v #>> '{}', E' \t\n\r')) not in ('', 'false', 'f', 'no') end
        when 'array' then v <> '[]'
        when 'object' then v <> '{}'
        else false end, false)
      from (select case when jsonb_typeof(value) = 'object' and value ? 'row_count'
                        then @extschema@.env_entry(value) -> 'v' else value end) as t (v)
$$;
