-- A payload as it was given: for one that is kept beside its row, that; else the same. What is encrypted or compressed
-- stays so.
create or replace function @extschema@.whole(instance uuid, payload jsonb) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select case when payload ? '$pgdurable:aside' then coalesce((
        select p.data from @extschema@.payloads p
         where p.instance_id = instance and p.hash = payload #>> '{$pgdurable:aside,hash}'), payload)
    else payload end
$$;
