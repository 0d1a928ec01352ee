-- Gives back all that a worker holds and has not ended, as the same attempt: it stops in good order.
create or replace function @extschema@.return_tasks(worker bigint) returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    n int;
begin
    update @extschema@.tasks t
       set owner = null, taken_at = null, run_at = clock_timestamp()
     where t.owner = return_tasks.worker and not coalesce(t.request @> '{"at_most_once": true}', false);
    get diagnostics n = row_count;
    if n > 0 then
        perform pg_notify(@extschema@.channel(), 'task');
    end if;
    return n;
end
$$;
