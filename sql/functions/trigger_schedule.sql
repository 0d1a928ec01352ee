-- Asks for one instance of a schedule now, whatever its overlap says and also while it is paused. A worker starts it.
-- `security definer`: whoever may execute it needs no right to the tables.
-- Arguments: `tick`: its time, by which the same request sent again is known.
-- Returns: the id that the instance will have.
-- Raises: PGD10 no such schedule.
create or replace function @extschema@.trigger_schedule(name text, tick timestamptz default now()) returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target text := @extschema@.need_schedule(name);
    moment text := to_char(tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US');
    asked jsonb := jsonb_build_array(jsonb_build_object('trigger', moment || '+00:00'));
    key text := target || '@' || moment || 'Z';
begin
    if not exists (select from @extschema@.instance_keys k where k.id = key) then
        update @extschema@.schedules s
           set requests = s.requests || asked, next_at = now(), revision = s.revision + 1
         where s.name = target and not s.requests @> asked;
    end if;
    perform pg_notify(@extschema@.channel(), 'due');
    return key;
end
$$;
