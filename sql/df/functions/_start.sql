-- What df.start does; `path` is the search_path of the steps.
create or replace function df._start(fut text, label text, database text, transaction_mode text, path text)
returns text
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    graph jsonb;
    definition jsonb;
    policies jsonb := jsonb_build_object('search_path', path);
    caller_name text := @extschema@.caller();
    version text;
    chosen text;
    instance uuid := @extschema@.new_id();
    vars jsonb;
begin
    if fut is null then
        return null;
    elsif lower(transaction_mode) = 'new' then
        return df._start_apart(fut, label, database);
    elsif lower(transaction_mode) is distinct from 'caller' then
        raise exception using errcode = '22023', message = format('invalid transaction_mode %L', transaction_mode),
            hint = 'It is caller or new.';
    elsif database <> current_database() then
        if exists (select from pg_database d where d.datname = database) then
            raise exception using errcode = '0A000',
                message = format('instances of database %L are started there, not from %L', database,
                                 current_database()),
                hint = 'Install pgdurable in that database and call df.start there, over dblink if need be.';
        end if;
        raise exception using errcode = '3D000', message = format('database %L does not exist', database),
            hint = 'Leave it out: instances run in the database they are started in.';
    elsif current_setting('pg_durable.enable_superuser_instances', true) in ('off', 'false', 'no', '0')
          and (select r.rolsuper from pg_roles r where r.rolname = caller_name)
    then
        raise exception using errcode = '42501',
            message = format('%s is a superuser, and pg_durable.enable_superuser_instances is off', caller_name),
            hint = 'Start it as another role, or set it on.';
    end if;
    graph := df._ensure(fut);
    select coalesce(jsonb_object_agg(v.name, v.value), '{}') into vars
      from df.vars v where v.owner = quote_ident(caller_name)::regrole and v.value is not null;
    loop
        chosen := left(replace(gen_random_uuid()::text, '-', ''), 8);
        continue when exists (select from @extschema@.instance_keys k where k.id = chosen);
        definition := @extschema@.normalize(df.translate(
            graph, vars || jsonb_build_object('sys_instance_id', chosen, 'sys_label', coalesce(_start.label, ''))));
        version := left(encode(sha256(convert_to(concat(graph, e'\n', definition, e'\n', path), 'UTF8')), 'hex'), 32);
        version := df._define(version, graph, definition, policies);
        insert into df.runs (instance_id, id, version, submitted_by, label)
        values (instance, chosen, version, caller_name, _start.label) on conflict on constraint runs_id_key do nothing;
        exit when found;
    end loop;
    perform @extschema@.start('df', '{}', id => chosen, version => version, instance => instance,
                              labels => case when _start.label is not null then jsonb_build_object('label', _start.label) end);
    return chosen;
end
$$;
