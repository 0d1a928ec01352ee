-- The output of a completed instance; null while it has not ended.
-- Raises: PGD02 no such instance; PGD06 it ended otherwise, with its error as detail.
create or replace function @extschema@.result(id text) returns jsonb
language plpgsql stable
as $$
declare
    found_row record;
begin
    select i.status, i.output, i.error into found_row
      from @extschema@.instances i where i.id = @extschema@.need_instance(result.id);
    if found_row.status in ('failed', 'cancelled', 'timed_out') then
        raise exception using errcode = 'PGD06',
            message = format('instance %L ended %s: %s', id, found_row.status, found_row.error ->> 'message'),
            detail = found_row.error ->> 'type',
            hint = format('select * from @extschema@.steps where instance_id = %L shows what it did.',
                          @extschema@.find_instance(id));
    end if;
    return found_row.output;
end
$$;
