-- Removes instances, and whatever else the tables hold of them but their history. For sweep and delete, which have locked
-- them and know that they have ended. A table that comes later, and holds something by instance, gets its line here.
--
-- One by one, so that no statistics can make the planner read a whole table.
create or replace function @extschema@.forget(ids uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from @extschema@.events e
     where e.seq = any (array(
        select o.seq from unnest(ids) as u (id)
         cross join lateral (select s.seq from @extschema@.events s where s.instance_id = u.id offset 0) o));
    delete from @extschema@.instance_keys k
     where k.id = any (array(
        select o.id from unnest(ids) as u (id)
         cross join lateral (select s.id from @extschema@.instance_keys s where s.instance_id = u.id offset 0) o));
    delete from @extschema@.sql_runs r where r.instance_id = any (ids);
    delete from @extschema@.tasks t where t.instance_id = any (ids);
    perform @extschema@.sweep_talk(ids);
    if @extschema@.has_df() then
        perform df._forget(ids);
    end if;
    delete from @extschema@.instances i where i.id = any (ids);
end
$$;
