-- The instances of the caller, the newest first, from behind a place on.
create or replace function df._list(
    status_filter text, limit_count int, label_filter text, after_at timestamptz, after_id text)
returns table (
    instance_id text, label text, function_name text, status text, execution_count bigint, output text,
    created_at timestamptz, completed_at timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select r.id, r.label, 'df'::text, s.status, 1::bigint, df._output(i.id), r.created_at,
           case when i.status = 'completed' then i.finished_at end
      from df.runs r
      join @extschema@.instances i on i.id = r.instance_id
     cross join lateral (select df._status(i.id) as status) s
     where df._sees(r.submitted_by)
       and (status_filter is null or s.status = status_filter)
       and (label_filter is null or r.label = label_filter)
       and (after_at is null or r.created_at < after_at or (r.created_at = after_at and r.id > after_id))
     order by r.created_at desc, r.id
     limit limit_count
$$;
