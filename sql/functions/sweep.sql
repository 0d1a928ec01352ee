-- One small step of retention: looks at up to `most` instances from id `since` up to below `before`, and removes those
-- that ended longer ago than they are kept, with their keys and stray events.
--
-- Their history goes with its partition, all at once. Where that would keep it for too long, the ids are returned for
-- sweep_history: in `gone` those of workflows that are kept shorter than usual, in `late` those whose partition should
-- have been dropped by now.
-- `older_than`: kept so long instead, by whatever is not kept for ever. `dry`: removes nothing.
--
-- It runs with the rights of the tables' owner, so that a worker needs no right to delete history.
-- Locks: the removed rows, skipping any that somebody holds. Nobody writes instances that have ended.
-- Returns: no row while another session is at it; else the last id looked at (null: there were none), how many were
-- looked at and removed, when the first of those that stay may have to go (null: never), and the ids.
create or replace function @extschema@.sweep(
    since uuid, before uuid, most int, older_than interval default null, dry boolean default false)
returns table (last uuid, looked int, removed int, again timestamptz, gone uuid[], late uuid[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    usual interval;
    slack interval;
    ids uuid[];
    expired int;
begin
    if not pg_try_advisory_xact_lock(@extschema@.lock_class(3), 1) then
        return;
    end if;
    usual := @extschema@.setting('retention')::interval;
    slack := @extschema@.setting('partition_width')::interval + @extschema@.setting('history_grace')::interval;
    with seen as materialized (
        select i.id, i.workflow, i.version, i.finished_at,
               i.status in ('completed', 'failed', 'cancelled', 'timed_out') and i.finished_at is not null as ended
          from @extschema@.instances i
         where i.id >= since and i.id < before
         order by i.id
         limit most
    ), judged as materialized (
        select s.id, s.ended, s.finished_at, k.keep,
               s.ended and s.finished_at < now() - k.keep as expired
          from seen s
          left join @extschema@.workflows w on w.name = s.workflow and w.version = s.version
         cross join lateral (
            select case when own.keep is null then null else coalesce(older_than, own.keep) end as keep
              from (select @extschema@.keep_for(w.policies, coalesce(usual, older_than)) as keep) own
         ) k
    )
    select (array_agg(j.id order by j.id desc))[1], count(*),
           min(case when j.expired then null when j.ended then j.finished_at + j.keep else now() + j.keep end),
           array_agg(j.id) filter (where j.expired),
           array_agg(j.id) filter (where j.expired and older_than is null and (usual is null or j.keep < usual)),
           array_agg(j.id) filter (where j.expired and older_than is null and j.keep >= usual
                                     and j.id < @extschema@.id_at(now() - usual - slack))
      into last, looked, again, ids, gone, late
      from judged j;
    if ids is not null and not dry then
        expired := cardinality(ids);
        select array_agg(l.id) into ids
          from (select i.id from @extschema@.instances i
                 where i.id = any (ids) and i.status in ('completed', 'failed', 'cancelled', 'timed_out')
                   for update skip locked) l;
        if cardinality(ids) is distinct from expired then
            again := now();
        end if;
        perform @extschema@.forget(ids);
    end if;
    removed := coalesce(cardinality(ids), 0);
    gone := coalesce(gone, '{}');
    late := coalesce(late, '{}');
    return next;
end
$$;
