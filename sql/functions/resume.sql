-- Lets a paused instance go on: any worker that has its workflow may claim it. Its strikes are forgotten.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Returns: whether it was paused.
-- Raises: PGD02 no such instance.
create or replace function @extschema@.resume(id text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
begin
    update @extschema@.instances i
       set status = 'pending', owner = null, wake_at = now(), error = null, strikes = 0
     where i.id = target and i.status = 'paused';
    if not found then
        -- It may have been resumed a moment ago, in a commit that waits for a synchronous standby still: this waits too.
        perform pg_logical_emit_message(true, 'pgdurable', '');
        return false;
    end if;
    perform pg_notify(@extschema@.channel(), 'due');
    return true;
end
$$;
