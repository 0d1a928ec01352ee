-- Starts many instances of one workflow in one call, for clients that may not write the tables.
--
-- Arguments: the new instances' ids and their inputs, in two parallel arrays; workflow, version, queue, priority
-- and partition of all.
-- `security definer`: whoever may execute it needs no right to the tables. `submitted_by` is the caller, always.
-- Returns: how many were started.
-- Raises: PGD05 no workflow, or the arrays differ in length; 23505 an id is there already (nothing is started then).
create or replace function @extschema@.start_many(
    ids uuid[], workflow text, version text, queue text, inputs text[],
    priority int default 0, partition text default null)
returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    submitter text := @extschema@.caller();
    started bigint;
begin
    if workflow is null or workflow = '' then
        raise exception using errcode = 'PGD05', message = 'start_many needs the name of a workflow',
            hint = 'select distinct name from @extschema@.workflows lists those that workers have registered.';
    end if;
    if octet_length(workflow) > 512 or octet_length(version) > 512 or octet_length(queue) > 512
       or octet_length(partition) > 512 then
        raise exception using errcode = 'PGD05',
            message = 'a workflow, version, queue or partition has at most 512 bytes', hint = 'Choose a shorter name.';
    end if;
    if cardinality(ids) is distinct from cardinality(inputs) or array_position(ids, null) is not null then
        raise exception using errcode = 'PGD05',
            message = format('start_many was given %s ids and %s inputs', cardinality(ids), cardinality(inputs)),
            hint = 'Give one id and one input per instance.';
    end if;
    insert into @extschema@.instances
        (id, workflow, version, status, queue, submitted_by, input, priority, partition, line)
    select u.id, start_many.workflow, start_many.version, 'pending', coalesce(start_many.queue, 'default'),
           submitter,
           case when octet_length(u.input) > 4000 then @extschema@.put_aside(u.id, u.input::jsonb) else u.input::jsonb end,
           start_many.priority, coalesce(start_many.partition, ''),
           case when start_many.queue <> 'default' or start_many.priority <> 0 or start_many.partition <> ''
                then start_many.priority end
      from (select unnest(ids) as id, unnest(inputs) as input) u;
    get diagnostics started = row_count;
    return started;
end
$$;
