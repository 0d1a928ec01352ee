-- Removes up to `most` inputs of batches, an hour after they came: until then the same input again adds nothing. Those of
-- batches that have not begun stay. `security definer`: a worker needs no right to the table. Returns how many.
create or replace function @extschema@.sweep_batch_inputs(most int) returns int
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    n int;
begin
    delete from @extschema@.batch_inputs b
     where b.id = any (array(
        select o.id
          from (select s.id, s.instance_id
                  from @extschema@.batch_inputs s
                 where s.created_at < now() - interval '1 hour'
                 order by s.created_at
                 limit most) o
         where not exists (
            select from @extschema@.instances i
             where i.id = o.instance_id and i.started_at is null and i.status in ('pending', 'paused') offset 0)));
    get diagnostics n = row_count;
    return n;
end
$$;
