-- Gives a worker in any language external steps to do, in the caller's transaction.
--
-- Committed at once, they are the caller's for as long as the lease, which `heartbeat` renews; then others may claim
-- them, as the next attempt. Kept in one transaction with the work and complete_step, no lease is needed: who rolls
-- back, or dies, has claimed nothing.
--
-- `security definer`: whoever may execute it needs no right to the tables. Where row-level security is on, a client gets
-- steps of instances that it has submitted.
-- Arguments: `queue` is the step's; `n` at most so many; `lease`, `steps`: only those of these names; `holder`: what
-- others see of who has them.
-- Locks: the rows it takes, skipping what others take.
-- Returns: `id`, `step`, `attempt` and `seq` are what complete_step, fail_step and heartbeat take; `input` as the
-- workflow gives it; `details` of the last heartbeat of an earlier attempt.
-- Raises: PGD05 n or the lease is none.
create or replace function @extschema@.claim_external(
    queue text default 'default', n int default 1, lease interval default '1 minute', steps text[] default null,
    holder text default null)
returns table (
    id text, step text, attempt int, seq int, input jsonb, details jsonb, workflow text, instance_id uuid,
    lease_until timestamptz)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
    long float8 := extract(epoch from lease);
    own boolean := @extschema@.hidden('');
    me text := @extschema@.caller();
begin
    if n is null or n not between 1 and 10000 or long is null or long not between 0.001 and 31536000 then
        raise exception using errcode = 'PGD05',
            message = format('claim_external takes n from 1 to 10000 and a positive lease, found %s and %s',
                coalesce(n::text, 'null'), coalesce(lease::text, 'null')),
            hint = 'For example: select * from @extschema@.claim_external(''mail'', 10, ''5 minutes'').';
    end if;
    perform @extschema@.give_up_leases();
    return query
    with any_step as materialized (
        select t.ctid as place, t.run_at as due
          from @extschema@.tasks t
         where steps is null and t.owner is null and t.kind = 'external' and t.queue = claim_external.queue and t.run_at <= at
           and (not own or t.submitted_by = me)
           and @extschema@.task_wanted(t.instance_id, t.seq, true)
         order by t.run_at
         limit n
           for update of t skip locked
    ), named as materialized (
        select c.place, c.due
          from unnest(steps) as s (name)
         cross join lateral (
            select t.ctid as place, t.run_at as due
              from @extschema@.tasks t
             where t.owner is null and t.kind = 'external' and t.queue = claim_external.queue and t.name = s.name and t.run_at <= at
               and (not own or t.submitted_by = me)
               and @extschema@.task_wanted(t.instance_id, t.seq, true)
             order by t.run_at
             limit n
               for update of t skip locked
         ) c
    ), taken as (
        update @extschema@.tasks t
           set attempt = t.attempt + (t.lease_until is not null)::int,
               lease_s = long, holder = left(coalesce(claim_external.holder, me), 512),
               taken_at = at, lease_until = at + lease, run_at = at + lease
         where t.ctid = any (array(
            select f.place from (select * from any_step union all select * from named) f order by f.due limit n))
        returning t.instance_id, t.seq, t.name, t.attempt, t.request, t.details, t.lease_until, t.created_at
    )
    select coalesce((select k.id from @extschema@.instance_keys k where k.instance_id = t.instance_id limit 1),
                    t.instance_id::text),
           t.name, t.attempt::int, t.seq, @extschema@.whole(t.instance_id, t.request -> 'input'), t.details,
           (select i.workflow from @extschema@.instances i where i.id = t.instance_id), t.instance_id, t.lease_until
      from taken t
     order by t.created_at, t.instance_id, t.seq;
end
$$;
