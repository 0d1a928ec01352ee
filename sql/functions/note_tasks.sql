-- Keeps what the heartbeats of a worker's tasks said, and says which tasks are no longer its own.
--
-- Arguments: parallel arrays as in finish_tasks; `details` null: nothing new.
-- Locks: the rows with details.
-- Returns: the tasks that were cancelled or given to another worker.
create or replace function @extschema@.note_tasks(worker bigint, ids uuid[], seqs int[], details text[])
returns table (id uuid, seq int)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    update @extschema@.tasks t
       set details = u.details::jsonb
      from (select unnest(ids) as id, unnest(seqs) as seq, unnest(note_tasks.details) as details) u
     where t.instance_id = u.id and t.seq = u.seq and t.owner = worker and u.details is not null;
    return query
    select u.id, u.seq
      from (select unnest(ids) as id, unnest(seqs) as seq) u
     where not exists (select from @extschema@.tasks t
                        where t.instance_id = u.id and t.seq = u.seq and t.owner = worker offset 0)
        or not @extschema@.task_wanted(u.id, u.seq);
end
$$;
