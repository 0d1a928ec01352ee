-- The row source that `$x.*` becomes, in SQL over $1; its columns are those of the rows that are there, or were asked for.
--
-- Arguments: a part of `scan_query`; the environment; `guess`: 1, 2, ... another way to take columns whose type the data
-- leave open (texts that look like times, columns with no value in them). Returns: null when there is no other guess.
create or replace function @extschema@.rows_expression(part jsonb, env jsonb, guess int)
returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    path constant text[] := array(select jsonb_array_elements_text(@extschema@.env_path(part)));
    rows constant jsonb := case when jsonb_typeof(env #> path) = 'array' then env #> path else '[]' end;
    names text[] := array(select jsonb_array_elements_text(env #> array[path[1], 'c']) where path[2] = 'r');
    columns text;
    open_ones constant text[] := '{text,int8,numeric,timestamptz,bool,jsonb,uuid,date,float8,bytea}';
    other int;
begin
    names := names || array(select distinct k from jsonb_array_elements(rows) as r, jsonb_object_keys(r) as k
                             where k <> all (names) order by 1);
    select string_agg(format('%I %s', c.name, case
               when c.kinds is null then 'pg_catalog.' || coalesce(open_ones[guess], 'text')
               when c.kinds = '{number}' then case when c.whole then 'pg_catalog.int8' else 'pg_catalog.numeric' end
               when c.kinds = '{boolean}' then 'pg_catalog.bool'
               when c.kinds = '{string}' then case
                   when guess = 1 or c.looks is null then 'pg_catalog.text' else 'pg_catalog.' || c.looks end
               else 'pg_catalog.jsonb' end), ', ' order by c.place),
           case when bool_or(c.kinds is null) then cardinality(open_ones) when bool_or(c.looks is not null) then 2 else 1 end
      into columns, other
      from (select n.name, n.place, array_agg(distinct jsonb_typeof(r -> n.name)) filter (where r -> n.name <> 'null') as kinds,
                   bool_and(case when jsonb_typeof(r -> n.name) = 'number' then
                       (r ->> n.name)::numeric between -9223372036854775808 and 9223372036854775807
                       and scale((r ->> n.name)::numeric) = 0 end) as whole,
                   case when bool_and(r ->> n.name ~ '^\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d(:\d\d)*( BC)?$') then 'timestamptz'
                        when bool_and(r ->> n.name ~ '^\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?( BC)?$') then 'timestamp'
                        when bool_and(r ->> n.name ~ '^\d{4,7}-\d\d-\d\d( BC)?$') then 'date'
                        when bool_and(r ->> n.name ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$') then 'uuid'
                        when bool_and(r ->> n.name ~ '^\\x([0-9a-f]{2})*$') then 'bytea' end as looks
              from unnest(names) with ordinality as n (name, place) left join jsonb_array_elements(rows) as r on true
             group by n.name, n.place) as c;
    if guess > greatest(other, 1) then
        return null;
    end if;
    return format('(select r.* from pg_catalog.jsonb_to_recordset($1 operator(pg_catalog.#>) %L::pg_catalog.text[]) as r (%s))%s',
                  path::text, coalesce(columns, 'none pg_catalog.text'),
                  case when (part ->> 'alias')::boolean then format(' as %I', part #>> '{ref,0}') end);
end
$$;
