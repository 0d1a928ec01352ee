-- Row-level security by submitter, on or off as the table row_security says, of which this is the trigger. Workers and
-- administrators see and write every row, readers see every row, a client sees what it submitted. Whoever else was granted a
-- table sees nothing in it; the owner and superusers see all.
--
-- `using (true)` leaves no condition in a worker's plans. `for select` is all a client needs: it writes by functions.
-- Where the group roles are missing (a dump was restored in another cluster), nobody but the owner sees anything.
-- Locks: the tables, exclusively, for a moment.
create or replace function @extschema@.apply_row_security() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    prefix text := (select r.prefix from @extschema@.row_security r);
    there boolean := (select count(*) = 4 from pg_catalog.pg_roles r
                       where r.rolname in (prefix || '_reader', prefix || '_client', prefix || '_worker', prefix || '_admin'));
    name text;
    own text;
begin
    if prefix is not null and not there then
        raise warning 'the roles %_reader, _client, _worker and _admin are not there: nobody but the owner sees rows of @extschema@',
            prefix using hint = 'pgdurable migrate --schema @extschema@ --roles --rls makes them.';
    end if;
    foreach name in array array['instances', 'instance_keys', 'history', 'events', 'states', 'updates', 'stream_items',
                                'schedules', 'attempts', 'payloads', 'sql_runs', 'tasks'] loop
        execute format('drop policy if exists pgdurable_all on @extschema@.%I', name);
        execute format('drop policy if exists pgdurable_read on @extschema@.%I', name);
        execute format('drop policy if exists pgdurable_own on @extschema@.%I', name);
        if prefix is null then
            execute format('alter table @extschema@.%I disable row level security', name);
            continue;
        end if;
        execute format('alter table @extschema@.%I enable row level security', name);
        continue when not there;
        own := case when name in ('instances', 'schedules') then 'submitted_by = current_user::text'
                    else format('exists (select from @extschema@.instances i where i.id = %I.instance_id)', name) end;
        execute format('create policy pgdurable_all on @extschema@.%I to %I, %I using (true) with check (true)',
                       name, prefix || '_worker', prefix || '_admin');
        execute format('create policy pgdurable_read on @extschema@.%I for select to %I using (true)', name, prefix || '_reader');
        execute format('create policy pgdurable_own on @extschema@.%I for select to %I using (%s)', name, prefix || '_client', own);
    end loop;
    return null;
end
$$;
