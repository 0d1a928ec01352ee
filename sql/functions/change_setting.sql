-- Keeps for the namespace what an update of the view `settings` says; a null value gives back what holds elsewhere.
-- Whoever may write kept_settings may do so: the owner, and administrators.
-- Raises: PGD05 the value has no sense, or something else than it was updated.
create or replace function @extschema@.change_setting() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    expected text := case when new.value is not null then @extschema@.setting_problem(old.name, new.value) end;
begin
    if expected is not null or new.name is distinct from old.name then
        raise exception using errcode = 'PGD05',
            message = format('setting %s cannot become %L', old.name, coalesce(new.value, new.name)),
            detail = format('Expected %s.', coalesce(expected, 'another value, not another name')),
            hint = format('For example: update @extschema@.settings set value = %L where name = %L.',
                          old.default_value, old.name);
    end if;
    if new.value is null then
        delete from @extschema@.kept_settings k where k.name = old.name;
    else
        insert into @extschema@.kept_settings (name, value) values (old.name, new.value)
            on conflict (name) do update set value = excluded.value, set_at = now(), set_by = current_user;
    end if;
    return new;
end
$$;
