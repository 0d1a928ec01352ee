-- A node that runs its body once for each row of a query, or each element of what "$name" or "$name.*" means; in the body it is
-- `$item`, or what `item` says. Side by side, at most `max_parallel` at once. Its result is the array of theirs, in order.
-- Example: @extschema@.for_each('select id from orders where open', @extschema@.call('ship', '["$item.id"]'), max_parallel => 4).
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.for_each(query text, body jsonb, item text default 'item', max_parallel int default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'for_each', case when query ~ '^\s*\$[A-Za-z_][\w.]*(\.\*)?\??\s*$' then 'in' else 'query' end, btrim(query),
        'body', body, 'as', nullif(item, 'item'), 'limit', max_parallel))
$$;

create or replace function @extschema@.for_each(query text, body text, item text default 'item', max_parallel int default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.for_each(query, to_jsonb(body), item, max_parallel)
$$;
