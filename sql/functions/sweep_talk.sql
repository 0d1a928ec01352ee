-- Removes what instances have published, the updates they were asked for, their streams and their large payloads: with
-- the instances.
-- One by one, so that no statistics can make the planner read a whole table.
create or replace function @extschema@.sweep_talk(ids uuid[]) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from @extschema@.payloads s
     where s.ctid = any (array(
        select o.ctid from unnest(ids) as u (id)
         cross join lateral (select t.ctid from @extschema@.payloads t where t.instance_id = u.id offset 0) o));
    delete from @extschema@.states s
     where s.ctid = any (array(
        select o.ctid from unnest(ids) as u (id)
         cross join lateral (select t.ctid from @extschema@.states t where t.instance_id = u.id offset 0) o));
    delete from @extschema@.updates s
     where s.ctid = any (array(
        select o.ctid from unnest(ids) as u (id)
         cross join lateral (select t.ctid from @extschema@.updates t where t.instance_id = u.id offset 0) o));
    delete from @extschema@.stream_items s
     where s.ctid = any (array(
        select o.ctid from unnest(ids) as u (id)
         cross join lateral (select t.ctid from @extschema@.stream_items t where t.instance_id = u.id offset 0) o));
end
$$;
