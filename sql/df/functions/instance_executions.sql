-- The runs of an instance: one, whatever loops it has. Raises: 22023 for a limit that is none.
create or replace function df.instance_executions(instance_id text, limit_count int default 5)
returns table (
    execution_id bigint, status text, event_count bigint, duration_ms bigint, output text)
language plpgsql stable security definer strict
set search_path = pg_catalog, pg_temp
as $$
begin
    if limit_count < 1 then
        raise exception using errcode = '22023', message = 'limit_count must be at least 1', hint = 'Leave it out for 5.';
    end if;
    return query
    select 1::bigint, df._status(i.id), (select count(*) from @extschema@.history h where h.instance_id = i.id),
           (extract(epoch from coalesce(i.finished_at, now()) - coalesce(i.started_at, i.created_at)) * 1000)::bigint,
           df._output(i.id)
      from @extschema@.instances i where i.id = df._find(instance_executions.instance_id);
end
$$;
