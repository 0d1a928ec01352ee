-- What history tells of the nodes of an instance: of each the last row, as far as the last 20,000 rows go.
--
-- Returns: `place`: its event_id; `ok`: null for an attempt that is tried again.
create or replace function df._evidence(instance uuid)
returns table (
    id text, place int, ok boolean, value jsonb, message text, recorded_at timestamptz)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select distinct on (h.name) h.name, h.event_id,
           case when h.error is null and h.kind <> 'attempt' then true when h.kind <> 'attempt' then false end,
           @extschema@.whole(instance, h.payload), h.error ->> 'message', h.recorded_at
      from (select e.name, e.event_id, e.kind, e.payload, e.error, e.recorded_at
              from @extschema@.history e where e.instance_id = instance order by e.event_id desc limit 20000) h
     where h.name ~ '^[0-9a-f]{8}$'
     order by h.name, h.event_id desc
$$;
