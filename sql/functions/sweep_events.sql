-- Deletes up to `most` events of instances that are not there any more. Returns how many.
create or replace function @extschema@.sweep_events(most int) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    n int;
begin
    delete from @extschema@.events e
     where e.seq = any (array(
        select o.seq from @extschema@.events o
         where not exists (select from @extschema@.instances i where i.id = o.instance_id)
         limit most
           for update skip locked));
    get diagnostics n = row_count;
    return n;
end
$$;
