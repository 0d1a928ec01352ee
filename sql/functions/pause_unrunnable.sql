-- Pauses an instance whose steps the pump that has claimed it may not run. Locks: its row.
create or replace function @extschema@.pause_unrunnable(worker bigint, target uuid, submitter text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    update @extschema@.instances i
       set status = 'paused', owner = null, strikes = 0, error = jsonb_build_object(
           'type', 'pgdurable.errors.NotAllowed',
           'message', format('instance %s of workflow %s was submitted by role %s, whose steps this pump (role %s) may not run',
                             i.id, i.workflow, submitter, current_user),
           'hint', format('An administrator calls: select @extschema@.admit_submitter(%L); then: select @extschema@.resume(%L).',
                          submitter, i.id::text))
     where i.id = target and i.owner = worker
$$;
