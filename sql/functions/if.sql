-- A node that runs `then` where the condition (a query, or a node) is true, else `else`; what counts as true: see `truthy`.
-- Example: @extschema@.if('select $total > 1000', @extschema@.call('review', '["$id"]'), @extschema@.sql('...')).
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.if(cond anycompatible, "then" jsonb, "else" jsonb default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'if', 'when', to_jsonb(cond), 'then', "then", 'else', "else"))
$$;

create or replace function @extschema@.if(cond anycompatible, "then" text, "else" text default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.if(cond, to_jsonb("then"), to_jsonb("else"))
$$;

create or replace function @extschema@.if(cond anycompatible, "then" jsonb, "else" text)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.if(cond, to_jsonb("then"), to_jsonb("else"))
$$;

create or replace function @extschema@.if(cond anycompatible, "then" text, "else" jsonb)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.if(cond, to_jsonb("then"), to_jsonb("else"))
$$;
