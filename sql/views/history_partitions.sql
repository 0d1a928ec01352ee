-- The partitions of `history`: the ids each holds (from lower, up to below upper) and when their instances were started.
-- lower null: from the first. `detaching`: somebody detaches it and waits for older transactions; rows no longer go there.
create or replace view @extschema@.history_partitions as
select c.relname::text as name,
       substring(b.bound from 'FROM \(''([0-9a-f-]{36})''\)')::uuid as lower,
       coalesce(substring(b.bound from 'TO \(''([0-9a-f-]{36})''\)'), 'ffffffff-ffff-ffff-ffff-ffffffffffff')::uuid as upper,
       @extschema@.id_time(substring(b.bound from 'FROM \(''([0-9a-f-]{36})''\)')::uuid) as since,
       @extschema@.id_time(substring(b.bound from 'TO \(''([0-9a-f-]{36})''\)')::uuid) as until,
       i.inhdetachpending as detaching,
       pg_total_relation_size(c.oid) as bytes
  from pg_catalog.pg_inherits i
  join pg_catalog.pg_class c on c.oid = i.inhrelid
 cross join lateral (select pg_get_expr(c.relpartbound, c.oid) as bound) b
 where i.inhparent = '@extschema@.history'::regclass;
