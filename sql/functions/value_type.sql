-- The type PostgreSQL gives this value when it stands in a query as a number, true, or a text; of null 0. `arrays`: an array
-- whose elements are of one kind is an array of PostgreSQL's, else it is jsonb, as an object is.
create or replace function @extschema@.value_type(value jsonb, arrays boolean default false)
returns oid
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case jsonb_typeof(value)
        when 'string' then 25
        when 'boolean' then 16
        when 'number' then case
            when scale((value #>> '{}')::numeric) > 0 then 1700
            when (value #>> '{}')::numeric between -2147483648 and 2147483647 then 23
            when (value #>> '{}')::numeric between -9223372036854775808 and 9223372036854775807 then 20
            else 1700 end
        when 'array' then case when not arrays then 3802 else (
            select case when count(*) filter (where jsonb_typeof(e) <> 'null') = 0 then 1009
                        when count(distinct jsonb_typeof(e)) filter (where jsonb_typeof(e) <> 'null') > 1 then 3802
                        when max(jsonb_typeof(e)) filter (where jsonb_typeof(e) <> 'null') = 'string' then 1009
                        when max(jsonb_typeof(e)) filter (where jsonb_typeof(e) <> 'null') = 'boolean' then 1000
                        when max(jsonb_typeof(e)) filter (where jsonb_typeof(e) <> 'null') <> 'number' then 3807
                        when bool_and(scale((e #>> '{}')::numeric) = 0
                             and (e #>> '{}')::numeric between -9223372036854775808 and 9223372036854775807)
                             filter (where jsonb_typeof(e) = 'number') then 1016
                        else 1231 end
              from jsonb_array_elements(value) as e) end
        when 'object' then 3802
        else 0 end::oid
$$;
