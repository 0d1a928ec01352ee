-- Claims up to a hundred instances for a pump that holds none.
--
-- What has been claimed and consumed stays in the indexes until a vacuum. So most looks begin where the ones before have left
-- nothing, and one in a while at the beginning, for what a slow transaction has committed before that place: after 20 times
-- what that takes, between 0.25 and 10 seconds.
create or replace function @extschema@.pump_claim(pump jsonb) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    room constant int := 100;
    me bigint := pump ->> 'me';
    names text[] := array(select jsonb_array_elements_text(pump -> 'names'));
    listens text[] := case when jsonb_typeof(pump -> 'listens') = 'array' then array(select jsonb_array_elements_text(pump -> 'listens')) end;
    began timestamptz := clock_timestamp();
    at float8 := extract(epoch from began);
    is_full boolean := at >= coalesce((pump ->> 'full_at')::float8, 0);
    due jsonb := case when is_full then '{}' else coalesce(pump -> 'due', '{}') end;
    ids uuid[];
    woke jsonb;
    n int;
begin
    if cardinality(names) = 0 then
        return pump || '{"ids": [], "was_full": true}';
    end if;
    if is_full and at - coalesce((pump ->> 'marked_at')::float8, 0) > 10 then
        -- The place in the queue of events: what was given out ten seconds ago has been committed, and looked at, since.
        pump := pump || jsonb_build_object('after', coalesce(pump -> 'marked', '0'), 'marked', @extschema@.last_event(),
                                           'marked_at', at);
    end if;
    select array_agg(c.id order by c.trial is null, c.id), count(*),
           jsonb_object_agg(c.workflow, c.woke_at order by c.woke_at) filter (where c.woke_at is not null)
      into ids, n, woke
      from @extschema@.claim(
        me, names, array(select jsonb_array_elements_text(pump -> 'versions')),
        array(select v::boolean from jsonb_array_elements_text(pump -> 'current') v), room,
        due_since => array(select (due ->> u.name)::timestamptz from unnest(names) with ordinality as u (name, n) order by u.n),
        after_event => case when is_full then 0 else coalesce((pump ->> 'after')::bigint, 0) end,
        listens => listens) c;
    if n < room then
        select coalesce(jsonb_object_agg(u.name, began - interval '5 seconds'), '{}') into due from unnest(names) as u (name);
    else
        due := due || coalesce(woke, '{}');
    end if;
    if is_full then
        pump := pump || jsonb_build_object('full_at', extract(epoch from clock_timestamp())
            + least(greatest(20 * extract(epoch from clock_timestamp() - began), 0.25), 10));
    end if;
    return pump || jsonb_build_object('ids', coalesce(to_jsonb(ids), '[]'), 'due', due, 'was_full', is_full);
end
$$;
