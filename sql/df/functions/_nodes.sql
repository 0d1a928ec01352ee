-- The nodes of an instance and how far each has come.
--
-- Returns: `status` is what the node has come to itself: pending, running, completed, failed. `inferred` also says of what will
-- not run any more that it is skipped, and of what a loop comes back to that it is pending; `because` is the node that decided.
-- Nothing for an instance that the caller may not know of.
create or replace function df._nodes(instance text)
returns table (
    id text, node_type text, query text, result_name text, left_node text, right_node text, status text, result jsonb,
    error text, status_details jsonb, inferred text, because text, updated_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    target uuid := df._find(instance);
    run record;
    r record;
    last int;
    ids text[] := '{}';
    types text[] := '{}';
    kids jsonb := '{}';
    place int[];
    silent bool[];
    ok bool[];
    val jsonb[];
    msg text[];
    at timestamptz[];
    busy bool[];
    broken bool[];
    inf text[];
    res jsonb[];
    why text[];
    under_way text[];
    st text;
    k jsonb;
    l int;
    g int;
    c int;
    chosen int;
    other int;
    j int;
begin
    select d.graph, df._status(i.id) as status, i.output, i.error ->> 'message' as message, i.created_at into run
      from df.runs x join df.graphs d on d.version = x.version join @extschema@.instances i on i.id = x.instance_id
     where x.instance_id = target;
    if not found then
        return;
    end if;
    under_way := df._under_way(target);
    for r in
        select f.*, e.place, e.ok, e.value, e.message, e.recorded_at
          from df._flatten(run.graph) f left join df._evidence(target) e on e.id = f.id
         order by f.n
    loop
        last := r.n + 1;
        ids[last] := r.id;
        types[last] := r.node_type;
        kids := kids || jsonb_build_object(last, jsonb_strip_nulls(jsonb_build_object(
            'up', r.up + 1, 'role', r.role, 'left', df._place(r.left_node), 'right', df._place(r.right_node),
            'condition', df._place(r.condition_node))));
        place[last] := r.place;
        ok[last] := r.ok;
        val[last] := r.value;
        msg[last] := r.message;
        at[last] := r.recorded_at;
        busy[last] := r.id = any (under_way);
        broken[last] := r.ok is false;
        -- Leaves nothing in history when it runs.
        silent[last] := r.node_type in ('THEN', 'IF', 'LOOP', 'JOIN', 'RACE', 'BREAK') or df._is_ref(r.query);
    end loop;
    for i in reverse last .. 2 loop
        l := kids #>> array[i::text, 'up'];
        place[l] := greatest(place[l], place[i]);
        busy[l] := busy[l] or busy[i];
        broken[l] := broken[l] or broken[i];
        silent[l] := silent[l] and silent[i];
    end loop;
    inf[1] := case run.status when 'cancelled' then 'failed' else run.status end;
    res[1] := case when run.status = 'completed' then @extschema@.whole(target, run.output) end;
    for i in 1 .. last loop
        if inf[i] is null then
            inf[i] := 'pending';
        end if;
        k := kids -> i::text;
        l := k ->> 'left';
        g := k ->> 'right';
        c := k ->> 'condition';
        st := inf[i];
        if types[i] in ('JOIN', 'RACE') then
            chosen := l;
            if types[i] = 'RACE' and st = 'completed' then
                chosen := case when coalesce(place[g], 0) > coalesce(place[l], 0) and not busy[g] then g else l end;
            end if;
            for j in select q.key::int from jsonb_each(kids) q where (q.value ->> 'up')::int = i order by 1 loop
                inf[j] := case
                    when st in ('pending', 'skipped') then st
                    when st = 'completed' and types[i] = 'RACE' and j <> chosen
                        then case when ok[j] then 'completed' else 'skipped' end
                    when st = 'completed' then 'completed'
                    when broken[j] then 'failed'
                    when busy[j] then 'running'
                    when st = 'failed' then case when place[j] is null then 'skipped' else 'completed' end
                    when place[j] is null and not silent[j] then 'pending'
                    when ok[j] or silent[j] then 'completed' else 'running' end;
                why[j] := case when inf[j] = 'skipped' then coalesce(why[i], ids[i]) end;
                res[j] := case when st <> 'completed' or inf[j] <> 'completed' then null
                    when types[i] = 'RACE' then res[i] else res[i] -> (select count(*)::int - 1
                        from jsonb_each(kids) q where (q.value ->> 'up')::int = i and q.key::int <= j) end;
            end loop;
        elsif types[i] = 'THEN' then
            if st = 'completed' then
                inf[l] := 'completed';
                inf[g] := case when silent[g] or coalesce(place[g] > place[l], place[g] is not null)
                                    then 'completed' else 'skipped' end;
                res[g] := res[i];
            elsif st = 'failed' then
                inf[l] := case when broken[l] and not (place[g] > place[l]) is true or (place[g] is null and not silent[g]
                                         and (place[l] is not null or busy[l]) and not coalesce(ok[l], false)) then 'failed'
                                    else 'completed' end;
                inf[g] := case when inf[l] = 'failed' then 'skipped' else 'failed' end;
            elsif st = 'running' then
                inf[l] := case when busy[l] then 'running' when busy[g] or place[l] is not null or silent[l]
                                    then 'completed' else 'running' end;
                inf[g] := case when inf[l] = 'running' then 'pending' else 'running' end;
            else
                inf[l] := st;
                inf[g] := st;
            end if;
            why[g] := case when inf[g] = 'skipped' then coalesce(why[i], ids[case when inf[l] = 'failed' then l else i end])
                           when inf[g] = 'pending' and place[g] is not null then ids[l] end;
            why[l] := case when inf[l] = 'skipped' then why[i] end;
        elsif types[i] = 'IF' then
            chosen := null;
            if st in ('completed', 'failed', 'running') then
                chosen := case when busy[l] then l when busy[g] then g
                    when c is null then case when coalesce(place[g], 0) > coalesce(place[l], 0) then g else l end
                    when busy[c] or place[c] is null and not silent[c] then null
                    when ok[c] and types[c] = 'SQL' and val[c] is not null
                        then case when @extschema@.truthy(val[c]) then l else g end
                    when greatest(place[l], place[g]) < place[c] then null
                    when coalesce(place[g], 0) > coalesce(place[l], 0) then g
                    when place[l] is not null or silent[l] then l else g end;
                if c is not null then
                    inf[c] := case when chosen is not null then 'completed' else st end;
                end if;
            elsif c is not null then
                inf[c] := st;
                why[c] := why[i];
            end if;
            if chosen is null then
                inf[l] := case when st in ('completed', 'failed', 'skipped') then 'skipped' else 'pending' end;
                inf[g] := inf[l];
                why[l] := case when inf[l] = 'skipped' then coalesce(why[i], ids[i]) end;
                why[g] := why[l];
            else
                other := case when chosen = l then g else l end;
                inf[chosen] := st;
                res[chosen] := res[i];
                inf[other] := 'skipped';
                why[other] := ids[i];
            end if;
        elsif types[i] = 'LOOP' then
            inf[l] := case st
                when 'failed' then case when broken[l] or c is null or busy[l] then 'failed' else 'completed' end
                when 'running' then case when busy[c] then 'completed' else 'running' end
                else st end;
            if c is not null then
                inf[c] := case st
                    when 'failed' then case when inf[l] = 'failed' then 'skipped' else 'failed' end
                    when 'running' then case when busy[c] then 'running' else 'pending' end
                    when 'completed' then case when place[c] is null and not silent[c] then 'skipped' else 'completed' end
                    else st end;
                why[c] := case when inf[c] = 'skipped' then coalesce(why[i], ids[i]) end;
            end if;
            why[l] := case when inf[l] = 'skipped' then why[i] end;
        end if;
    end loop;
    for r in select f.* from df._flatten(run.graph) f order by f.n loop
        last := r.n + 1;
        id := r.id;
        node_type := r.node_type;
        query := r.query;
        result_name := r.result_name;
        left_node := r.left_node;
        right_node := r.right_node;
        inferred := inf[last];
        because := why[last];
        status := case
            when inf[last] in ('skipped', 'pending') then
                case when ok[last] then 'completed' when ok[last] is false then 'failed'
                     when busy[last] and place[last] is not null then 'failed' else 'pending' end
            else inf[last] end;
        error := case when status = 'failed' then coalesce(msg[last], run.message) end;
        result := case when status = 'failed' then to_jsonb(error) when status <> 'completed' then null
            else df._shape(coalesce(df._leaf_result(r.node_type, r.query, val[last]), res[last])) end;
        status_details := case when place[last] is not null or busy[last]
                               then jsonb_build_object('execution_id', instance || '::1') end;
        updated_at := coalesce(at[last], run.created_at);
        return next;
    end loop;
end
$$;
