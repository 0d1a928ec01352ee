-- Removes what df keeps of instances that are removed, and the graphs that no other instance has. Called by the namespace.
--
-- Locks: a graph's row, unless somebody starts it just now.
create or replace function df._forget(ids uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    idle text[];
begin
    with gone as (
        delete from df.runs r where r.instance_id = any (ids) returning r.version
    )
    select array_agg(distinct g.version) into idle from gone g;
    if idle is null then
        return;
    end if;
    idle := array(select g.version from df.graphs g
                   where g.version = any (idle) and not exists (select from df.runs r where r.version = g.version)
                     for update skip locked);
    -- Once more, now that nobody begins: one may have come before the lock.
    idle := array(select v from unnest(idle) as u (v) where not exists (select from df.runs r where r.version = v));
    delete from df.graphs g where g.version = any (idle);
    delete from @extschema@.workflows w where w.name = 'df' and w.version = any (idle);
end
$$;
