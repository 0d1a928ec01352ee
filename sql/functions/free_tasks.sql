-- Gives back what workers hold that have ended, as the next attempt; ends what may not be tried again.
--
-- Every engine calls it now and then, and so does the supervisor of pumps; without either, anybody may.
-- Locks: the rows it changes, skipping those that somebody holds.
-- Returns: how many may be taken again.
create or replace function @extschema@.free_tasks() returns int
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    n int;
    places tid[];
begin
    perform @extschema@.give_up_leases();
    with lost as materialized (
        select t.ctid as place
          from @extschema@.tasks t
         where t.owner is not null and t.kind <> 'sql' and @extschema@.worker_gone(t.owner)
           and (t.request @> '{"at_most_once": true}' or t.attempt >= (t.request ->> 'max_attempts')::int)
         limit 1000
           for update of t skip locked
    )
    select array_agg(l.place) into places from lost l;
    if places is not null then
        perform @extschema@.tasks_lost(places);
    end if;
    with lost as materialized (
        select t.ctid as place
          from @extschema@.tasks t
         where t.owner is not null and @extschema@.worker_gone(t.owner)
         limit 1000
           for update of t skip locked
    )
    update @extschema@.tasks t
       set owner = null, taken_at = null, run_at = clock_timestamp(),
           attempt = t.attempt + (t.kind <> 'sql')::int
     where t.ctid = any (array(select l.place from lost l));
    get diagnostics n = row_count;
    if n > 0 then
        perform pg_notify(@extschema@.channel(), 'task');
    end if;
    return n;
end
$$;
