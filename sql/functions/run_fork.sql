-- Begins the branches of parallel, race or for_each: threads of their own, `limit` of them at once; the one that forks
-- waits for them.
--
-- Arguments: `thread`, as it stands at the instruction `ins`; `last`: for for_each, what is gone through: a statement's
-- result, or any JSON array. `most`: the limit where the node has none.
create or replace function @extschema@.run_fork(state jsonb, thread text, ins jsonb, last jsonb, most int) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    above jsonb := state #> array['threads', thread];
    joined text := state ->> 'next';
    own jsonb := coalesce(above -> 'env', '{}');
    number int := (joined)::int + 1;
    at_once int := case when ins ->> 'k' = 'race' then 2147483647 else coalesce((ins ->> 'limit')::int, most) end;
    begun jsonb := '{}';
    queue jsonb;
    branches jsonb[];
begin
    if ins ->> 'k' = 'for_each' then
        branches := array(
            select jsonb_build_object('pc', ins -> 'b', 'ix', r.n - 1, 'env', own || jsonb_build_object(
                    ins ->> 'as', @extschema@.env_entry(case
                        when last ? 'rows' then jsonb_build_object('rows', jsonb_build_array(r.value),
                                                                   'columns', coalesce(last -> 'columns', '[]'), 'row_count', 1)
                        else r.value end)))
              from jsonb_array_elements(case when jsonb_typeof(last) = 'array' then last
                                             when jsonb_typeof(last -> 'rows') = 'array' then last -> 'rows'
                                             when last is null or jsonb_typeof(last) = 'null' then '[]'
                                             else jsonb_build_array(last) end) with ordinality as r (value, n)
             order by r.n);
    else
        branches := array(
            select jsonb_build_object('pc', b.value, 'ix', b.n - 1, 'env', own)
              from jsonb_array_elements(ins -> 'b') with ordinality as b (value, n) order by b.n);
    end if;
    if cardinality(branches) = 0 then
        return jsonb_set(state, array['threads', thread],
                         above || jsonb_build_object('pc', ins -> 'j', 'last', '[]'::jsonb));
    end if;
    select coalesce(jsonb_object_agg((number + b.n - 1)::text, b.one || jsonb_build_object('up', joined))
                    filter (where b.n <= at_once), '{}'),
           coalesce(jsonb_agg(b.one order by b.n) filter (where b.n > at_once), '[]')
      into begun, queue
      from unnest(branches) with ordinality as b (one, n);
    state := jsonb_set(state, '{threads}', (state -> 'threads') || begun || jsonb_build_object(thread,
        above || jsonb_build_object('wait', jsonb_build_object('k', 'join', 'j', joined))));
    state := state || jsonb_build_object('next', number + least(at_once, cardinality(branches)));
    return jsonb_set(state || jsonb_build_object('joins', coalesce(state -> 'joins', '{}')), array['joins', joined],
        jsonb_build_object('k', ins -> 'k', 'thread', thread, 'j', ins -> 'j', 'results', '{}'::jsonb, 'queue', queue));
end
$$;
