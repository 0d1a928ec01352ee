-- Ends tasks that a worker has run: each becomes an event of its instance.
--
-- Arguments are parallel arrays, one element per task, ordered by instance and seq by the caller (one lock order).
-- `endings` are {"output": ...} or {"error": {...}}. What is no longer the worker's (cancelled, given to another) is left
-- out: nobody waits for it.
-- Locks: the worker's fence, then the rows.
-- Returns: how many have ended by this call.
-- Raises: PGD01 when the worker itself was taken over.
create or replace function @extschema@.finish_tasks(
    worker bigint, ids uuid[], seqs int[], attempts int[], endings text[])
returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    n int;
begin
    perform @extschema@.fence(worker);
    with ended as (
        delete from @extschema@.tasks t
         using (select unnest(ids) as id, unnest(seqs) as seq, unnest(attempts) as attempt, unnest(endings) as ending) u
         where t.instance_id = u.id and t.seq = u.seq and t.attempt = u.attempt and t.owner = finish_tasks.worker
        returning t.instance_id, t.seq, t.attempt, t.name, u.ending
    )
    insert into @extschema@.events (instance_id, kind, name, payload)
    select e.instance_id, 'task', e.name, jsonb_build_object('seq', e.seq, 'attempt', e.attempt) || e.ending::jsonb
      from ended e
     order by e.instance_id, e.seq;
    get diagnostics n = row_count;
    if n > 0 then
        perform pg_notify(@extschema@.channel(), 'event');
    end if;
    return n;
end
$$;
