-- A node that runs `then` where the result of this name has rows, else `else`. Nothing is asked of the server for it.
-- Raises: PGD05 what is no such node.
create or replace function @extschema@.if_rows(of text, "then" jsonb, "else" jsonb default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.if(jsonb_build_object('op', 'rows', 'of', of), "then", "else")
$$;

create or replace function @extschema@.if_rows(of text, "then" text, "else" text default null)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.if_rows(of, to_jsonb("then"), to_jsonb("else"))
$$;

create or replace function @extschema@.if_rows(of text, "then" jsonb, "else" text)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.if_rows(of, to_jsonb("then"), to_jsonb("else"))
$$;

create or replace function @extschema@.if_rows(of text, "then" text, "else" jsonb)
returns jsonb
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select @extschema@.if_rows(of, to_jsonb("then"), to_jsonb("else"))
$$;
