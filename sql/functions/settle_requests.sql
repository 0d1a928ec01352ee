-- Carries out requests that reached an instance just as its worker paused it: terminates it, or lets it go on to be
-- cancelled. Workers call this now and then. Up to `most`; returns how many.
create or replace function @extschema@.settle_requests(most int) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    one record;
    settled int := 0;
begin
    for one in
        select e.instance_id as id, e.kind, e.payload ->> 'reason' as reason
          from @extschema@.events e
         cross join lateral (
            select i.error from @extschema@.instances i where i.id = e.instance_id and i.status = 'paused' offset 0
         ) i
         where e.kind = 'terminate' or (e.kind = 'cancel' and i.error is null)
         order by e.instance_id
         limit most
    loop
        if one.kind = 'terminate' then
            perform @extschema@.terminate_instance(one.id, one.reason);
        else
            perform @extschema@.cancel_instance(one.id, one.reason);
        end if;
        settled := settled + 1;
    end loop;
    return settled;
end
$$;
