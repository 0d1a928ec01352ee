-- The instances of the caller, the newest first, from behind a place on.
create or replace function df._list(
    status_filter text, limit_count int, label_filter text, after_at timestamptz, after_id text)
returns table (
    instance_id text, label text, function_name text, status text, execution_count bigint, output text,
    created_at timestamptz, completed_at timestamptz)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    run record;
    found_status text;
    left_over int := limit_count;
    newest refcursor;
begin
    -- Along one index or the other, in its order.
    if label_filter is null then
        open newest for
            select r.* from df.runs r
             where r.created_at <= coalesce(after_at, 'infinity')
               and (after_id is null or r.created_at < after_at or r.id > after_id)
             order by r.created_at desc, r.id;
    else
        open newest for
            select r.* from df.runs r
             where r.label = label_filter
               and r.created_at <= coalesce(after_at, 'infinity')
               and (after_id is null or r.created_at < after_at or r.id > after_id)
             order by r.created_at desc, r.id;
    end if;
    while left_over > 0 loop
        fetch newest into run;
        exit when not found;
        continue when not df._sees(run.submitted_by);
        found_status := df._status(run.instance_id);
        continue when found_status is null or (status_filter is not null and found_status <> status_filter);
        instance_id := run.id;
        label := run.label;
        function_name := 'df';
        status := found_status;
        execution_count := 1;
        output := df._output(run.instance_id);
        created_at := run.created_at;
        completed_at := (select i.finished_at from @extschema@.instances i
                          where i.id = run.instance_id and found_status = 'completed');
        left_over := left_over - 1;
        return next;
    end loop;
    close newest;
end
$$;
