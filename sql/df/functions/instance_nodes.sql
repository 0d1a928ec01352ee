-- The nodes of an instance of the caller, each with its status: `status` is what it has come to itself, `inferred_status` also
-- says skipped of what will not run any more, because of the node `inferred_status_from_ancestor_id`.
create or replace function df.instance_nodes(instance_id text)
returns table (
    node_id text, node_type text, query text, result_name text, left_node text, right_node text, status text, result text,
    status_details text, inferred_status text, inferred_status_from_ancestor_id text, updated_at timestamptz)
language sql stable strict
set search_path = pg_catalog, pg_temp
as $$
    select n.id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, n.status, n.result::text,
           n.status_details::text, n.inferred, n.because, n.updated_at
      from df._nodes(instance_id) n
$$;
