-- A node that runs its body and, once that is done, remembers how to undo it: if the workflow fails later, what is to be undone
-- is, latest first.
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.compensate(body jsonb, undo anycompatible)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.make_node(jsonb_build_object('op', 'compensate', 'body', body, 'undo', to_jsonb(undo)))
$$;

create or replace function @extschema@.compensate(body text, undo anycompatible)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.compensate(to_jsonb(body), undo)
$$;
