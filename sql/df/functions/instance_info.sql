-- One instance of the caller.
create or replace function df.instance_info(instance_id text)
returns table (
    instance_id text, label text, function_name text, function_version text, current_execution_id bigint, status text,
    output text)
language sql stable security definer strict
set search_path = pg_catalog, pg_temp
as $$
    select r.id, r.label, 'df'::text, r.version, 1::bigint, df._status(i.id), df._output(i.id)
      from df.runs r
      join @extschema@.instances i on i.id = r.instance_id
     where r.instance_id = df._find(instance_info.instance_id)
$$;
