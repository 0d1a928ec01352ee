-- Drops the tasks of an instance that are not among those it waits for. One that a pump runs just now is held by it: its
-- statement is cancelled, and the pump drops it (see run_tasks).
create or replace function @extschema@.drop_tasks(target uuid, open int[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    one int;
begin
    perform from @extschema@.tasks t where t.instance_id = target and t.seq <> all (open);
    if not found then
        return;
    end if;
    delete from @extschema@.tasks t
     where t.instance_id = target and t.seq = any (array(
        select s.seq from @extschema@.tasks s where s.instance_id = target and s.seq <> all (open) for update skip locked));
    for one in select t.seq from @extschema@.tasks t where t.instance_id = target and t.seq <> all (open) loop
        begin
            perform pg_cancel_backend(a.pid) from pg_stat_activity a
              where a.datname = current_database() and a.application_name like 'pgd:%:' || target || ':' || one;
        exception when insufficient_privilege then
            null;  -- it runs to its end, for nothing
        end;
    end loop;
end
$$;
