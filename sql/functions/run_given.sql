-- A program in which what a node `atomic` at `pc` runs has its results given, by the number of the node. Used in replay.
create or replace function @extschema@.run_given(code jsonb, pc int, given jsonb) returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_agg(case when c.n <= pc + 1 or c.value ->> 'o' <> 'sql' then c.value
                          else c.value || case when given ? (c.value ->> 'n')
                              then jsonb_build_object('given', given -> (c.value ->> 'n'))
                              else '{"o": "a step that its history does not have"}' end end order by c.n)
      from jsonb_array_elements(code) with ordinality as c (value, n)
$$;
