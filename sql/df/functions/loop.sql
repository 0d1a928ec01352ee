-- Again and again: without a condition until df.break, else while it holds after a round. As @> body.
create or replace function df.loop(body text, condition text default null) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select (jsonb_build_object('node_type', 'LOOP', 'left_node', df._ensure(body))
            || case when condition is null then '{}' else jsonb_build_object('condition_node', df._ensure(condition)) end)::text
     where body is not null
$$;
