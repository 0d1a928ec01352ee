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
    gone bigint[];
begin
    perform @extschema@.give_up_leases();
    -- From one holder to the next along the index: a condition that only a function knows would read all that waits.
    with recursive held (owner) as (
        (select t.owner from @extschema@.tasks t where t.owner is not null order by t.owner limit 1)
        union all
        select (select t.owner from @extschema@.tasks t where t.owner > h.owner order by t.owner limit 1)
          from held h where h.owner is not null
    )
    select array_agg(h.owner) into gone from held h where h.owner is not null and @extschema@.worker_gone(h.owner);
    if gone is null then
        return 0;
    end if;
    with lost as materialized (
        select l.place
          from unnest(gone) as g (owner)
         cross join lateral (
            select t.ctid as place
              from @extschema@.tasks t
             where t.owner = g.owner and t.kind <> 'sql'
               and (t.request @> '{"at_most_once": true}' or t.attempt >= (t.request ->> 'max_attempts')::int)
             order by t.owner
             limit 1000
               for update of t skip locked) l
    )
    select array_agg(l.place) into places from lost l;
    if places is not null then
        perform @extschema@.tasks_lost(places);
    end if;
    with lost as materialized (
        select l.place
          from unnest(gone) as g (owner)
         cross join lateral (
            select t.ctid as place
              from @extschema@.tasks t
             where t.owner = g.owner
               -- The others are ended by the next call, where there were more than this one has seen.
               and (t.kind = 'sql' or not (coalesce(t.request @> '{"at_most_once": true}', false)
                                           or t.attempt >= coalesce((t.request ->> 'max_attempts')::int, 32767)))
             order by t.owner
             limit 1000
               for update of t skip locked) l
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
