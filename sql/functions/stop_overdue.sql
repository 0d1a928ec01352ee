-- Cancels statements of SQL workflows that run over their step's timeout, or whose instance is to be cancelled or
-- terminated. The pump that runs one records why it ended.
--
-- Pumps say in their application_name what they run: `pgd:<deadline>:<instance>`, the deadline as milliseconds since 1970
-- to base 36, 0 for none. Whom the caller may not cancel is left alone.
-- Returns: how many were cancelled.
create or replace function @extschema@.stop_overdue() returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    seen record;
    n int := 0;
begin
    perform pg_stat_clear_snapshot();
    for seen in
        select a.pid
          from pg_stat_activity a
         cross join lateral (
            select case when a.application_name ~ '^pgd:[0-9a-z]{1,10}:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                        then split_part(a.application_name, ':', 3)::uuid end as id,
                   split_part(a.application_name, ':', 2) as due) p
         where a.datname = current_database() and a.state = 'active' and a.pid <> pg_backend_pid()
           and p.id is not null and exists (select from @extschema@.instances i where i.id = p.id)
           and (p.due <> '0' and (
                   select sum((strpos('0123456789abcdefghijklmnopqrstuvwxyz', substr(p.due, length(p.due) - g.k, 1)) - 1)
                              * power(36::numeric, g.k))
                     from generate_series(0, length(p.due) - 1) as g (k)) <= extract(epoch from clock_timestamp()) * 1000
                or exists (select from @extschema@.events e
                            where e.instance_id = p.id and e.kind in ('cancel', 'terminate')))
    loop
        begin
            n := n + pg_cancel_backend(seen.pid)::int;
        exception when insufficient_privilege then
            null;
        end;
    end loop;
    return n;
end
$$;
