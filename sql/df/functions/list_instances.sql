-- The instances of the caller, the newest first.
--
-- Arguments: `status_filter`: pending, running, completed, failed or cancelled; null: any.
-- Raises: 22023 for a limit that is none.
create or replace function df.list_instances(status_filter text default null, limit_count int default 100)
returns table (instance_id text, label text, function_name text, status text, execution_count bigint, output text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform df._list_limit(limit_count);
    return query select l.instance_id, l.label, l.function_name, l.status, l.execution_count, l.output
                   from df._list(status_filter, limit_count, null, null, null) l;
end
$$;
