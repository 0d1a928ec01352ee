-- The value of a setting that holds in this session: what is kept for the namespace, else pgdurable.<name> (set, alter
-- role, alter database, postgresql.conf), else the default. An interval comes as text that ::interval takes.
-- Returns: null for `off` and `forever`.
-- Raises: PGD05 no such setting, or a value that has no sense.
create or replace function @extschema@.setting(name text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    k record;
    found_value text;
    expected text;
begin
    select s.usual, s.word into k from @extschema@.setting_kinds() s where s.name = setting.name;
    if not found then
        raise exception using errcode = 'PGD05', message = format('there is no setting pgdurable.%s', name),
            detail = format('Expected %s.', @extschema@.setting_problem(name, null)),
            hint = 'select name, meaning from @extschema@.settings lists them.';
    end if;
    found_value := coalesce(
        (select s.value from @extschema@.kept_settings s where s.name = setting.name),
        nullif(current_setting('pgdurable.' || setting.name, true), ''), k.usual);
    if found_value <> k.usual then
        expected := @extschema@.setting_problem(name, found_value);
        if expected is not null then
            raise exception using errcode = 'PGD05',
                message = format('setting pgdurable.%s is %L', name, found_value),
                detail = format('Expected %s.', expected),
                hint = format('Where it is set: select source from @extschema@.settings where name = %L.', name);
        end if;
    end if;
    return nullif(found_value, k.word);
end
$$;
