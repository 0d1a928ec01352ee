-- What delete does, for one instance by uuid. Called by functions that have looked at who asks.
-- Returns: false when it has not ended, or is not there.
create or replace function @extschema@.delete_instance(target uuid) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from @extschema@.instances i
      where i.id = target and i.status in ('completed', 'failed', 'cancelled', 'timed_out')
        for update;
    if not found then
        return false;
    end if;
    perform @extschema@.forget(array[target]);
    delete from @extschema@.history h where h.instance_id = target;
    return true;
end
$$;
