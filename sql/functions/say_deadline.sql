-- Says in `application_name`, which all see in pg_stat_activity at once and without a commit, which step this session runs and
-- until when it may: `pgd:<deadline, epoch in ms, base 36; 0: none>:<instance>`, and `:<seq>` where it runs it as a task.
-- Without an instance the session has its own name again.
create or replace function @extschema@.say_deadline(target uuid, task_seq int, limit_s float8) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    rest bigint := ceil((extract(epoch from clock_timestamp()) + limit_s) * 1000);
    written text := '';
begin
    while rest > 0 loop
        written := substr('0123456789abcdefghijklmnopqrstuvwxyz', (rest % 36)::int + 1, 1) || written;
        rest := rest / 36;
    end loop;
    perform set_config('application_name',
        case when target is null then coalesce(current_setting('pgdurable.pump_name', true), '')
             else concat('pgd:', coalesce(nullif(written, ''), '0'), ':', target, ':' || task_seq) end, false);
end
$$;
