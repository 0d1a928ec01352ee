-- Marks rows of history as undone: their kind becomes `undone` with the old kind after it, so that replay passes over
-- them and people still see them. For the worker that holds the instance, while it replays it for a retry.
--
-- With the rights of the tables' owner, since a worker may not change history.
-- Locks: the worker's fence; the marked rows, which nobody else touches.
-- Returns: how many were marked.
-- Raises: PGD01 when the worker was taken over.
create or replace function @extschema@.undo(worker bigint, instance uuid, events int[]) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    n int;
begin
    perform @extschema@.fence(worker);
    perform from @extschema@.instances i where i.id = instance and i.owner = worker;
    if not found then
        return 0;
    end if;
    update @extschema@.history h
       set kind = 'undone ' || h.kind
     where h.instance_id = instance and h.event_id = any (events) and h.kind not like 'undone %'
       -- Only what a retry asks for: a worker rewrites nothing else.
       and exists (select from @extschema@.history r
                    where r.instance_id = instance and r.kind = 'retry' and r.event_id > h.event_id);
    get diagnostics n = row_count;
    return n;
end
$$;
