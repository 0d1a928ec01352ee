-- Tells the pumps to look for work. They do so by themselves.
create or replace function df.run(instance_id text default null) returns text
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select format('Triggered run for %s', coalesce('instance: ' || instance_id, 'all pending instances'))
      from (select pg_notify(@extschema@.channel(), 'due')) n
$$;
