-- The nodes of a definition: numbered from 0 in the order of reading (pre-order), each with its parent's number (the root's
-- is null), its path, its name (the field `name`, else the path; the root `root`) and itself. The definition is normalized.
--
-- A path names the way down: the place in a list, counted from 1, or the field: `2.then.1`. The root's is empty.
create or replace function @extschema@.nodes(definition jsonb)
returns table (n int, parent int, path text, op text, name text, node jsonb)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive tree (place, above, path, node) as (
        select '{}'::int[], null::int[], '', @extschema@.normalize(definition)
        union all
        select t.place || c.nth, t.place, ltrim(t.path || '.' || c.slot, '.'), c.child
          from tree t cross join lateral @extschema@.child_nodes(t.node) as c)
    , numbered as (
        select (row_number() over (order by t.place) - 1)::int as n, t.place, t.above, t.path, t.node from tree t)
    select s.n, p.n, s.path, s.node ->> 'op', coalesce(s.node ->> 'name', nullif(s.path, ''), 'root'), s.node
      from numbered s left join numbered p on p.place = s.above
     order by s.n
$$;
