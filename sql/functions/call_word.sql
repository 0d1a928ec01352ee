-- The literal for a text in which references may stand, as in "order $id": in quotes, where bind looks for them. One that
-- begins with two dollar signs is the text behind the first.
create or replace function @extschema@.call_word(word text) returns text
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when starts_with(word, repeat('$', 2)) then @extschema@.dollar_quoted(substr(word, 2))
                when word ~ '\$[a-zA-Z_]' then format('''%s''', replace(word, '''', ''''''))
                else @extschema@.dollar_quoted(word) end
$$;
