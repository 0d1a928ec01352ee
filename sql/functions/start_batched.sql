-- Gathers inputs: instances of a workflow that takes many at once begin when `most` have come, or `wait` after the first.
--
-- Arguments: `parameter` is the workflow's one parameter, which gets the list; `ids` and `inputs` are parallel: the same
-- id again within an hour adds nothing, so a call whose answer was lost can be sent again. In the caller's transaction:
-- an input is in exactly one batch, by one commit, and the batch begins by one commit with all that it has gathered.
-- `security definer`: whoever may execute it needs no right to the tables. `submitted_by` is who came first.
-- Locks: the batch that fills, until the caller commits: callers of one batch take turns.
-- Returns: for each input, in order, the instance that has it.
-- Raises: PGD05 something does not fit.
create or replace function @extschema@.start_batched(
    workflow text,
    parameter text,
    ids uuid[],
    inputs text[],
    most int,
    wait interval,
    version text default null,
    queue text default 'default',
    priority int default 0,
    partition text default null)
returns setof uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    held constant text := @extschema@.gathering_key(workflow, version, partition, null);
    filling record;
    first int := 1;
    last int;
    added int;
    n int := coalesce(cardinality(ids), 0);
begin
    if octet_length(workflow) not between 1 and 512 or octet_length(version) > 512 or octet_length(queue) > 512
       or octet_length(partition) > 512 or octet_length(parameter) not between 1 and 512
       or workflow is null or parameter is null then
        raise exception using errcode = 'PGD05',
            message = 'start_batched needs the names of a workflow and its parameter, each of 1 to 512 bytes',
            hint = 'So have a version, queue or partition at most 512 bytes.';
    end if;
    if n is distinct from coalesce(cardinality(inputs), 0) or array_position(ids, null) is not null
       or most not between 1 and 100000 or most is null or wait < interval '0' or wait is null then
        raise exception using errcode = 'PGD05',
            message = format('start_batched was given %s ids, %s inputs, most %s and wait %s', n, cardinality(inputs), most, wait),
            hint = 'Give one id and one input each, most from 1 to 100,000, and a wait of 0 or more.';
    end if;
    while first <= n loop
        select i.id, i.gathered into filling
          from @extschema@.instances i
         where i.queue = start_batched.queue and i.hold = held and i.status in ('pending', 'paused')
           for update;
        if not found then
            insert into @extschema@.instances
                (id, workflow, version, status, queue, priority, wake_at, submitted_by, input, partition, hold, gathered)
            values (@extschema@.new_id(), start_batched.workflow, start_batched.version, 'pending', start_batched.queue,
                    start_batched.priority, now() + wait, @extschema@.caller(), jsonb_build_object(parameter, '[]'::jsonb),
                    coalesce(start_batched.partition, ''), held, 0)
            on conflict do nothing;
            continue;
        end if;
        last := least(first + greatest(most - filling.gathered, 1) - 1, n);
        -- What was sent before is passed over.
        insert into @extschema@.batch_inputs (id, instance_id, place, input)
        select u.id, filling.id, filling.gathered + u.n, u.input::jsonb
          from unnest(ids[first:last], inputs[first:last]) with ordinality as u (id, input, n)
        on conflict do nothing;
        get diagnostics added = row_count;
        update @extschema@.instances i
           set gathered = i.gathered + added,
               hold = case when i.gathered + added < most then i.hold end,
               wake_at = case when i.gathered + added < most then i.wake_at else least(i.wake_at, now()) end,
               line = case when i.gathered + added >= most
                                and (i.queue <> 'default' or i.priority <> 0 or i.partition <> '') then i.priority
                           else i.line end
         where i.id = filling.id;
        first := last + 1;
    end loop;
    perform pg_notify(@extschema@.channel(), 'due');
    return query
    select b.instance_id
      from unnest(ids) with ordinality as u (id, n)
      join @extschema@.batch_inputs b on b.id = u.id
     order by u.n;
end
$$;
