-- The policies go too, so that switching it on again makes them as the installed version has them.
alter table @extschema@.instances disable row level security;
drop policy if exists pgdurable_all on @extschema@.instances;
drop policy if exists pgdurable_read on @extschema@.instances;
drop policy if exists pgdurable_own on @extschema@.instances;
alter table @extschema@.instance_keys disable row level security;
drop policy if exists pgdurable_all on @extschema@.instance_keys;
drop policy if exists pgdurable_read on @extschema@.instance_keys;
drop policy if exists pgdurable_own on @extschema@.instance_keys;
alter table @extschema@.history disable row level security;
drop policy if exists pgdurable_all on @extschema@.history;
drop policy if exists pgdurable_read on @extschema@.history;
drop policy if exists pgdurable_own on @extschema@.history;
alter table @extschema@.events disable row level security;
drop policy if exists pgdurable_all on @extschema@.events;
drop policy if exists pgdurable_read on @extschema@.events;
drop policy if exists pgdurable_own on @extschema@.events;
