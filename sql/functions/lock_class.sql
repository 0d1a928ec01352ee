-- The first key of every advisory lock of this namespace, so that two namespaces in one database do not meet.
-- `part` 0: the fence of a worker; 1: the presence of a worker's session; 2: migration;
-- 3: upkeep (second key 0 and 1), the lines of queues (second key from 2^30 on, by the queue's name).
create or replace function @extschema@.lock_class(part int default 0) returns int
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (hashtext('pgdurable:@extschema@') & 2147483644) + part
$$;
