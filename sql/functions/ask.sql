-- Puts a question to an instance: whoever holds it in memory, or can replay it, answers. See answers.
-- `security definer`: whoever may execute it needs no right to the tables. `asked_by` is the caller.
-- Returns: the instance's uuid.
-- Raises: PGD02 no such instance; PGD05 no name.
create or replace function @extschema@.ask(id text, name text, input jsonb, key uuid) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    target uuid := @extschema@.need_instance(id);
begin
    if name is null or octet_length(name) not between 1 and 512 then
        raise exception using errcode = 'PGD05',
            message = format('a query of %L needs a name of 1 to 512 bytes', id),
            hint = 'The name is that of a handler of the workflow.';
    end if;
    insert into @extschema@.queries (key, instance_id, name, input, asked_by)
    values (ask.key, target, ask.name, coalesce(ask.input, '[]'), @extschema@.caller())
    on conflict do nothing;
    perform pg_notify(@extschema@.channel(), 'query');
    return target;
end
$$;
