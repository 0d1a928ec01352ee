-- For fork: whether an instance of a workflow in SQL can be forked so. What was one commit, a node `atomic`, is not cut in two; and
-- as retry goes on, from the step that made it fail, it keeps its input and its version. Anything else passes.
-- Raises: PGD05 it cannot.
create or replace function @extschema@.check_fork(target uuid, place int, as_retry boolean, changed boolean) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    code jsonb := (select w.program -> 'code' from @extschema@.instances i
                     join @extschema@.workflows w on w.name = i.workflow and w.version = i.version and w.kind = 'sql'
                    where i.id = target);
    before record;
    behind record;
    inside int;
    failed int;
begin
    if code is null then
        return;
    end if;
    if as_retry then
        if changed then
            select (r.state #>> '{failed,event}')::int into failed from @extschema@.sql_runs r where r.instance_id = target;
            raise exception using errcode = 'PGD05',
                message = format('instance %s, of a workflow in SQL, keeps its input and version where it goes on from the step that failed',
                                 target),
                hint = format('Give from_event => %s: what lies before it is replayed with the new ones.', coalesce(failed, 1));
        end if;
        return;
    end if;
    select h.event_id, h.seq, h.fingerprint into before from @extschema@.history h
     where h.instance_id = target and h.event_id < place and h.seq is not null and h.kind = 'step' and h.error is null
     order by h.event_id desc limit 1;
    select h.event_id, h.seq, h.fingerprint into behind from @extschema@.history h
     where h.instance_id = target and h.event_id >= place and h.seq is not null and h.kind = 'step' and h.error is null
     order by h.event_id limit 1;
    if behind.seq = before.seq + 1 and behind.event_id = before.event_id + 1 and behind.fingerprint > before.fingerprint then
        -- The marks of nodes `atomic` before either: the same one, and both within.
        select max(c.n) into inside from jsonb_array_elements(code) with ordinality as c (value, n)
         where c.value ->> 'o' in ('atomic', 'unatomic')
           and c.n < (select min(d.n) from jsonb_array_elements(code) with ordinality as d (value, n)
                       where (d.value ->> 'n')::int = before.fingerprint and d.value ->> 'o' = 'sql');
        if code -> (inside - 1) ->> 'o' = 'atomic' and not exists (
            select from jsonb_array_elements(code) with ordinality as c (value, n)
             where c.value ->> 'o' = 'unatomic' and c.n > inside
               and c.n < (select min(d.n) from jsonb_array_elements(code) with ordinality as d (value, n)
                           where (d.value ->> 'n')::int = behind.fingerprint and d.value ->> 'o' = 'sql'))
        then
            raise exception using errcode = 'PGD05',
                message = format('events %s and %s of instance %s are one commit (atomic): it cannot be forked in between',
                                 before.event_id, behind.event_id, target),
                hint = 'Fork from the first event of the node atomic, or from the one behind its last.';
        end if;
    end if;
end
$$;
