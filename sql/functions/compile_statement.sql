-- What an instruction needs to run a statement: `q` the text over one parameter (the variables), `s` the places in it that
-- must not be null, `late` whether it is bound anew each time it runs, `plain` whether it gives no rows. See bind. `tag`: a
-- comment around it, by which people know it in the server's log and views (see tagged). `i`: places where a whole number has to be for that
-- text; where there is another, `iq`, the query, is bound anew. `k`: places that must not be null if there is such a variable.
create or replace function @extschema@.compile_statement(query text, path text, tag text) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    bound jsonb := @extschema@.bind(query, path);
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'q', case when (bound ->> 'late')::boolean then query else @extschema@.tagged(bound ->> 'text', tag) end,
        'late', nullif((bound ->> 'late')::boolean, false),
        'tag', case when (bound ->> 'late')::boolean or bound -> 'ints' <> '[]' then tag end,
        'iq', case when bound -> 'ints' <> '[]' then query end,
        'i', (select jsonb_agg((select array_agg(p.step) from jsonb_array_elements_text(s.path) as p (step))::text)
                from jsonb_array_elements(bound -> 'ints') as s (path)),
        'k', (select jsonb_agg((select array_agg(p.step) from jsonb_array_elements_text(s.path) as p (step))::text)
                from jsonb_array_elements(bound -> 'known') as s (path)),
        'plain', nullif(bound ->> 'mode' = 'plain', false),
        's', (select jsonb_agg((select array_agg(p.step) from jsonb_array_elements_text(s.path) as p (step))::text)
                from jsonb_array_elements(bound -> 'strict') as s (path))));
end
$$;
