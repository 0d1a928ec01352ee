-- Every setting, its value here and where that comes from. An update of `value` keeps it for this namespace alone (the trigger
-- change_setting, which migration 22 made).
create or replace view @extschema@.settings as
select s.name, s.value, s.source, s.default_value, s.meaning, s.problem
  from @extschema@.settings_here() s;
