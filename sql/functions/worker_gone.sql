-- Whether that worker has ended or was declared dead. One that has joined after the caller's snapshot has not: ids ascend.
create or replace function @extschema@.worker_gone(worker bigint) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (select w.state in ('dead', 'stopped') from @extschema@.workers w where w.id = worker),
        worker < (select max(w.id) from @extschema@.workers w))
$$;
