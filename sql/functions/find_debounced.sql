-- The instance whose input start_debounced would replace, or null.
create or replace function @extschema@.find_debounced(
    workflow text, key text, version text default null, queue text default 'default', partition text default null)
returns uuid
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select i.id
      from @extschema@.instances i
     where i.debounce = key and i.workflow = find_debounced.workflow
       and i.queue = find_debounced.queue and i.partition = coalesce(find_debounced.partition, '')
       and coalesce(i.version, '') = coalesce(find_debounced.version, '')
       and i.owner is null and i.status = 'pending' and i.started_at is null
       and not @extschema@.hidden(i.submitted_by)
$$;
