-- A text on one line, cut where it has more than so many characters.
create or replace function df._cut(value text, most int) returns text
language sql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case when length(v.v) > most then left(v.v, most - 3) || '...' else v.v end
      from (select regexp_replace(btrim(value), '\s+', ' ', 'g')) v (v)
$$;
