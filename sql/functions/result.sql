-- The output of a completed instance; null while it has not ended.
-- Raises: PGD02 no such instance; PGD06 it ended otherwise, with its error as detail.
create or replace function @extschema@.result(id text) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
    found_row record;
begin
    select i.status, i.output, i.error into found_row
      from @extschema@.instances i where i.id = target;
    if found_row.status in ('failed', 'cancelled', 'timed_out') then
        raise exception using errcode = 'PGD06',
            message = format('instance %L ended %s', id, found_row.status)
                || coalesce(': ' || (found_row.error ->> 'message'), ''),
            detail = coalesce(found_row.error ->> 'type', 'No error was recorded.'),
            hint = format('select * from @extschema@.steps where instance_id = %L shows what it did.',
                          target);
    end if;
    return @extschema@.whole(target, found_row.output);
end
$$;
