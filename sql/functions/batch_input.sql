-- The input of a batch that begins now: what it has gathered, in order, as the one argument of its workflow, whose name
-- is the only key of `input`. Called by claim() within the commit in which the instance begins; `security definer`: a
-- worker needs no right to what has been gathered for others.
create or replace function @extschema@.batch_input(batch uuid, input jsonb) returns jsonb
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
    select jsonb_build_object(
        (select k.key from jsonb_object_keys(batch_input.input) as k (key) limit 1),
        coalesce((select jsonb_agg(b.input order by b.place)
                    from @extschema@.batch_inputs b
                   where b.instance_id = batch and b.input is not null), '[]'))
$$;
