-- The nodes of those instances, and how far each has come.
create or replace view df.nodes with (security_barrier) as
select n.id, r.id as instance_id, n.node_type, n.query, n.result_name, n.left_node, n.right_node, n.status, n.result, n.error,
       r.submitted_by, r.database, r.created_at, n.updated_at, n.status_details
  from df.instances r
 cross join lateral df._nodes(r.id) n;
