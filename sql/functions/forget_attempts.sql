-- Forgets long attempts of instances that have ended or were removed, and turns that are free again.
-- Returns: how many attempts.
create or replace function @extschema@.forget_attempts() returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    many int;
begin
    delete from @extschema@.attempts a
     where not exists (select from @extschema@.instances i
                        where i.id = a.instance_id
                          and i.status not in ('completed', 'failed', 'cancelled', 'timed_out'));
    get diagnostics many = row_count;
    delete from @extschema@.step_turns t where t.free_at < now();
    return many;
end
$$;
