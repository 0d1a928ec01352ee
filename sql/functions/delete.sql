-- Removes an instance that has ended, with its history, events, keys and whatever else is kept of it. Its id is free then.
--
-- `security definer`: whoever may execute it needs no right to the tables. Locks: the removed rows.
-- Returns: true.
-- Raises: PGD02 no such instance; PGD09 it has not ended.
create or replace function @extschema@.delete(id text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
begin
    if not @extschema@.delete_instance(target) then
        raise exception using errcode = 'PGD09',
            message = format('instance %L is %s: only instances that have ended can be deleted', id,
                (select i.status from @extschema@.instances i where i.id = target)),
            hint = format('End it first: select @extschema@.terminate(%L), or cancel.', id);
    end if;
    return true;
end
$$;
