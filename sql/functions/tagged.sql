-- A statement with a comment before it, which the server's log shows, and behind it, which pg_stat_statements keeps: that one
-- drops what stands before a statement. On a line of its own, as the statement may end with a comment to the end of its line.
create or replace function @extschema@.tagged(statement text, tag text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select tag || rtrim(statement, e'; \n\r\t') || e'\n' || rtrim(tag)
$$;
