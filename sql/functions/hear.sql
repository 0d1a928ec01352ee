-- Says of requests to pause that the worker which holds the instances has heard them: from now on it begins nothing for
-- them. The requests stay until they are carried out (see heed), so that whoever takes over a dead worker meets them.
--
-- With the rights of the tables' owner, since a worker may not change events. Locks: the worker's fence; the requests,
-- passing over any that somebody is about to withdraw.
-- Raises: PGD01 when the worker was taken over.
create or replace function @extschema@.hear(worker bigint, ids uuid[]) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform @extschema@.fence(worker);
    update @extschema@.events e
       set name = 'heard'
     where e.seq = any (array(
        select p.seq from unnest(ids) as u (id)
         cross join lateral (
            select s.seq from @extschema@.events s
             where s.instance_id = u.id and s.kind = 'pause' and s.name is null
               for update skip locked) p));
end
$$;
