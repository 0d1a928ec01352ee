-- The instance whose input start_debounced would replace, or null.
create or replace function @extschema@.find_debounced(
    workflow text, key text, version text default null, queue text default 'default', partition text default null)
returns uuid
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select i.id
      from @extschema@.instances i
     where i.queue = find_debounced.queue and i.status in ('pending', 'paused')
       and i.hold = @extschema@.gathering_key(find_debounced.workflow, version, find_debounced.partition, key)
       and not @extschema@.hidden(i.submitted_by)
$$;
