-- A node that runs its body again and again: while the condition, looked at after each round, is true; without one until a
-- `break`. Its result is that of the last round, or what break gives.
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.loop(body jsonb)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'loop', 'body', body))
$$;

create or replace function @extschema@.loop(body text)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.loop(to_jsonb(body))
$$;

create or replace function @extschema@.loop(body jsonb, while anycompatible)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'loop', 'body', body, 'while', to_jsonb(while)))
$$;

create or replace function @extschema@.loop(body text, while anycompatible)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.loop(to_jsonb(body), while)
$$;
