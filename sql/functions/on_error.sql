-- A node that runs its body and, if that fails for good, its handler, in which $error.message, .sqlstate, .type, .step are known.
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.on_error(body jsonb, handler anycompatible)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'on_error', 'body', body, 'handler', to_jsonb(handler)))
$$;

create or replace function @extschema@.on_error(body text, handler anycompatible)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.on_error(to_jsonb(body), handler)
$$;
