-- The text of a node as an indented text, or what is wrong with it.
create or replace function df._explain_graph(node text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case when node is null then 'The expression is null' else df._tree(case when left(ltrim(node), 1) = '{'
        then node::jsonb else df._ensure(node) end) end;
exception when invalid_parameter_value or invalid_text_representation then
    return format('Invalid durable function graph: %s', sqlerrm);
end
$$;
