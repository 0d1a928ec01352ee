-- An instance's result as text; of one that failed the reason; null while it has not ended.
create or replace function df._output(instance uuid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when i.status = 'completed' then coalesce(df._shape(@extschema@.whole(i.id, i.output)), 'null')::text
                when i.status in ('failed', 'cancelled', 'timed_out') then i.error ->> 'message' end
      from @extschema@.instances i where i.id = instance
$$;
