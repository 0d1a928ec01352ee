-- The former name of df.await_instance.
create or replace function df.wait_for_completion(instance_id text, timeout_seconds int default 30) returns text
language sql volatile strict
as $$
    select df.await_instance(instance_id, timeout_seconds)
$$;
