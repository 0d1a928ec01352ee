-- Starts a child of an instance, in the commit of the parent's history row: for apply_writes.
--
-- Arguments: `seq` is the number of the parent's command, which the child's end is told under; `body` has `id` (the
-- child's uuid), `workflow`, `version`, `key` (a user-chosen id, or null), `parent_close`, `owner` (the worker that runs
-- it from its first row, or null), `input`, and what the start was given of `queue`, `partition`, `priority`, `delay`
-- (seconds) and `labels`. It is submitted by whoever submitted the parent.
-- Locks: with `key`, the key's index entry; the first child of an instance locks the parent's row, which is the flush's.
-- Raises: PGD04 the key belongs to another instance.
create or replace function @extschema@.write_child(parent uuid, seq int, body jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    child uuid := (body ->> 'id')::uuid;
    runner bigint := (body ->> 'owner')::bigint;
    later float8 := coalesce((body ->> 'delay')::float8, 0);
    rank smallint := coalesce((body ->> 'priority')::smallint, 0::smallint);
    chosen text := body ->> 'key';
    holder uuid;
begin
    if chosen is not null then
        insert into @extschema@.instance_keys (id, instance_id) values (chosen, child) on conflict do nothing;
        if not found then
            select k.instance_id into holder from @extschema@.instance_keys k where k.id = chosen;
            if holder is distinct from child then
                raise exception using errcode = 'PGD04',
                    message = format('id %L is that of another instance', chosen),
                    hint = 'Choose another id for this child.';
            end if;
        end if;
    end if;
    insert into @extschema@.instances
        (id, workflow, version, status, queue, priority, owner, wake_at, parent, parent_seq, parent_close,
         submitted_by, input, labels, partition, line)
    select child, body ->> 'workflow', body ->> 'version', case when runner is null then 'pending' else 'running' end,
           coalesce(body ->> 'queue', 'default'), rank, runner,
           now() + make_interval(secs => later), p.id, write_child.seq, body ->> 'parent_close', p.submitted_by,
           case when pg_column_size(body) > 1000 then @extschema@.put_aside(child, body -> 'input') else body -> 'input' end,
           body -> 'labels', coalesce(body ->> 'partition', ''),
           -- It stands in line at once, as what start makes: else whoever looks for due instances puts it there.
           case when later <= 0 and (rank <> 0 or body ? 'queue' or body ? 'partition') then rank end
      from @extschema@.instances p
     where p.id = write_child.parent
    on conflict do nothing;
    update @extschema@.instances p set has_children = true where p.id = write_child.parent and not p.has_children;
    if runner is null then
        perform pg_notify(@extschema@.channel(), 'due');
    end if;
end
$$;
