-- Drops what has been detached from `history`, and closes the holes it leaves. Should an instance have come meanwhile that
-- has rows in there, they are put back.
--
-- Locks: the detached tables, which nobody uses any more; gives up after 2 s.
-- Returns: how many were dropped.
create or replace function @extschema@.drop_detached() returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
declare
    spare record;
    dropped int := 0;
begin
    for spare in
        select c.relname as name
          from pg_catalog.pg_class c
         where c.relnamespace = '@extschema@'::regnamespace and c.relkind = 'r' and not c.relispartition
           and obj_description(c.oid, 'pg_class') = 'pgdurable: partition of history'
    loop
        perform @extschema@.make_partitions();
        execute format(
            'insert into @extschema@.history select h.* from @extschema@.instances i '
            'join @extschema@.%1$I h on h.instance_id = i.id '
            'where i.id >= (select s.instance_id from @extschema@.%1$I s order by s.instance_id limit 1) '
            'and i.id <= (select s.instance_id from @extschema@.%1$I s order by s.instance_id desc limit 1) '
            'on conflict do nothing', spare.name);
        execute format('drop table @extschema@.%I', spare.name);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;
