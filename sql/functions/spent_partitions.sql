-- The partitions of `history` that can be dropped: they lie a day back or more and none of their instances is there any
-- more. Neighbours go together, since one empty partition takes their place; a lone empty one stays.
--
-- Returns: name, and the commands that detach it: without anybody waiting; and on from where that was broken off.
create or replace function @extschema@.spent_partitions()
returns table (name text, detach text, finalize text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with parts as (
        select p.name, p.detaching, row_number() over (order by p.lower nulls first) as place,
               pg_relation_size(('@extschema@.' || quote_ident(p.name))::regclass) > 0 as filled,
               p.detaching or (p.until < now() - interval '1 day' and not exists (
                   select from @extschema@.instances i
                    where i.id >= coalesce(p.lower, '00000000-0000-0000-0000-000000000000') and i.id < p.upper)) as spent
          from @extschema@.history_partitions p
    ), runs as (
        select p.*, p.place - row_number() over (partition by p.spent order by p.place) as run from parts p
    )
    select r.name,
           format('alter table @extschema@.history detach partition @extschema@.%I concurrently', r.name),
           case when r.detaching
                then format('alter table @extschema@.history detach partition @extschema@.%I finalize', r.name) end
      from runs r
     where r.spent and exists (select from runs f where f.spent and f.run = r.run and (f.filled or f.detaching))
     order by r.detaching desc, r.place
$$;
