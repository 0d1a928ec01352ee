-- For fork: whether an instance of a workflow in SQL can be forked so: from its start, or, as retry goes on, from the step
-- that made it fail. In between there is no state of it to go on from. Anything else passes.
-- Raises: PGD05 it cannot.
create or replace function @extschema@.check_fork(target uuid, place int, as_retry boolean, changed boolean) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from @extschema@.instances i
                 join @extschema@.workflows w on w.name = i.workflow and w.version = i.version and w.kind = 'sql'
                where i.id = target)
       and (case when as_retry then changed else place > 1 end) then
        raise exception using errcode = 'PGD05',
            message = format('instance %s is of a workflow in SQL, which is forked from its start or from the step that failed', target),
            detail = case when as_retry then 'From the step that failed it keeps its input and its version.'
                          else format('Asked for: event %s.', place) end,
            hint = 'Give from_event => 1 to run it anew, or leave out from_event, input and version to go on from where it failed.';
    end if;
end
$$;
