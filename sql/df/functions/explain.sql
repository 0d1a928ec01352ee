-- A graph, or an instance by its id, as an indented text; of an instance with the status of each node.
--
-- `input`: an id, a node, a statement, or an expression in the functions and operators of df, which is evaluated with the
-- rights and the path of the caller. Not security definer, and no path of its own.
create or replace function df.explain(input text) returns text
language plpgsql volatile strict
as $$
declare
    asked text := pg_catalog.btrim(input, E' \t\n\r');
    node pg_catalog.text;
begin
    if asked OPERATOR(pg_catalog.~) '^[0-9a-f]{8}$' then
        return coalesce(df._explain_instance(asked), pg_catalog.format('Instance %L not found', asked));
    elsif pg_catalog.left(asked, 1) OPERATOR(pg_catalog.=) '{' then
        node := asked;
    elsif asked OPERATOR(pg_catalog.~) '(~>|\|=>|\?>|!>|@>|\mdf\.)' then
        begin
            execute pg_catalog.concat('select ', asked) into node;
        exception when others then
            return pg_catalog.format('Failed to evaluate expression: %s', sqlerrm);
        end;
    elsif pg_catalog.lower(pg_catalog.split_part(pg_catalog.translate(asked, E'\t\n\r', '   '), ' ', 1)) in (
        'select', 'insert', 'update', 'delete', 'merge', 'with', 'create', 'alter', 'drop', 'call', 'do', 'truncate', 'grant',
        'revoke', 'explain', 'values', 'table')
    then
        node := asked;
    else
        return 'Cannot explain this: it is no instance, node, statement or expression of df.';
    end if;
    return df._explain_graph(node);
end
$$;
