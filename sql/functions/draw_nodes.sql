-- Draws a definition as a tree, a line per node, with what is said of each node by its number.
create or replace function @extschema@.draw_nodes(definition jsonb, said jsonb default '{}')
returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive node as (
        select n.*, n.n = max(n.n) over (partition by n.parent) as youngest, regexp_replace(n.path, '^.*\.', '') as slot
          from @extschema@.nodes(definition) as n)
    , tree as (
        select n.*, ''::text as stem, ''::text as branch from node n where n.parent is null
        union all
        select c.*, t.stem || case when t.parent is null then '' when t.youngest then '   ' else '|  ' end,
               case when c.youngest then '`- ' else '|- ' end
          from tree t join node c on c.parent = t.n)
    select concat(t.stem, t.branch, case when t.slot !~ '^\d*$' then t.slot || ': ' end, @extschema@.node_title(t.node),
                  '   ' || (said ->> t.n::text))
      from tree t order by t.n
$$;
