-- Reads a statement as PostgreSQL's own scanner would, and says where results are meant: `$x`, `$x.f`, `$x.*`, `$x?`.
--
-- Knows strings, escape strings, quoted names, dollar quotes, comments (nested ones too), `$1` and names with a dollar in
-- them. Only what `bind` makes of its answer is ever sent to the server: nothing of a result's value is in it.
-- Returns: `parts`, in order: text; {"ref": path, "safe": with `?`, "rows": `.*`, "parse": cast to json at once, "alias": an
-- alias is wanted, "src": as written}; {"lit": a string with references in it: texts as written and refs, "esc": an
-- escape string, "type": of `interval '$n days'`, "cast": what it is cast to at once}. Then `verb`, `rows` (whether it returns any), `more` (a second statement),
-- `params` (`$1`), `open` (what is not closed).
create or replace function @extschema@.scan_query(query text)
returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Words, space, single other characters. Whatever is beyond ASCII is a letter, as in PostgreSQL's scanner.
    a text[] := array(select m[1] from regexp_matches(query collate "C", '(?:[A-Za-z0-9_]|[^\x01-\x7f])+|\s+|.', 'g') as m);
    n constant int := cardinality(a);
    i int := 1;
    j int;
    k int;
    c text;
    start int := 1;              -- first atom that is not yet in parts
    parts jsonb := '[]';
    depth int := 0;
    verb text;                   -- what the statement does
    opening text;                -- its first word
    gives boolean := false;      -- whether it returns rows
    over boolean := false;       -- behind a semicolon
    more boolean := false;
    params boolean := false;
    unclosed text;
    word text := '';             -- the word before, where it begins and ends
    word_at int := 0;
    word_end int := 0;
    lit boolean := false;        -- inside a string
    lit_at int;
    chunk int;                   -- first atom of the string's text that is not yet in pieces
    pieces jsonb;
    esc boolean;
    fills boolean;               -- whether references in this string are filled in
    of_type int;                 -- where the type's name in front of the string begins
    path text[];
    many boolean;
    safe boolean;
    tag text;
    nested int;
    part jsonb;
    utility boolean;
begin
    while i <= n loop
        c := a[i];
        if lit then
            if c = '''' then
                if a[i + 1] = '''' then
                    i := i + 2;
                    continue;
                end if;
                if pieces <> '[]' then
                    pieces := pieces || to_jsonb(array_to_string(a[chunk:i - 1], ''));
                    j := coalesce(of_type, case when esc then lit_at - 1 else lit_at end);
                    if j > start then
                        parts := parts || to_jsonb(array_to_string(a[start:j - 1], ''));
                    end if;
                    parts := parts || jsonb_build_object('lit', pieces, 'esc', esc,
                        'type', case when of_type is not null then btrim(array_to_string(a[of_type:word_end], '')) end,
                        'cast', substring(array_to_string(a[i + 1:i + 12], '') from case
                            when lower(array_to_string(a[greatest(lit_at - 4, 1):lit_at - 1], '')) ~ '\mcast\s*\(\s*e?$'
                            then '^\s+[aA][sS]\s+([A-Za-z_][A-Za-z0-9_.]*(?:\[\])?)'
                            else '^\s*::\s*([A-Za-z_][A-Za-z0-9_.]*(?:\[\])?)' end));
                    start := i + 1;
                end if;
                lit := false;
                i := i + 1;
                continue;
            elsif esc and c = '\' then
                i := i + 2;
                continue;
            elsif not (fills and c = '$' and a[i + 1] ~ '^([A-Za-z_]|[^\x01-\x7f])') then
                i := i + 1;
                continue;
            end if;
        else
            if over and c !~ '^\s' and c <> ';' and not (c = '-' and a[i + 1] = '-') and not (c = '/' and a[i + 1] = '*') then
                more := true;
                exit;
            end if;
            if c = '''' then
                -- What stands right before it, without a space: E'...', B'...', U&'...'.
                esc := word_end = i - 1 and word = 'e';
                utility := opening is not null and opening not in
                    ('select', 'insert', 'update', 'delete', 'merge', 'with', 'values', 'table', 'call', 'explain');
                fills := not utility and (word_end < i - 1 or esc)
                    and not (coalesce(a[i - 1], '') = '&' and word = 'u' and word_end = i - 2);
                of_type := null;
                if fills and not esc and word_end > 0 and a[word_end + 1] ~ '^\s' and word_end + 2 = i
                   and word not in ('select', 'distinct', 'all', 'as', 'then', 'else', 'when', 'case', 'and', 'or', 'not',
                        'in', 'like', 'ilike', 'similar', 'to', 'between', 'symmetric', 'is', 'from', 'escape', 'where', 'on',
                        'having', 'by', 'limit', 'offset', 'values', 'return', 'returning', 'union', 'except', 'intersect',
                        'using', 'set', 'default', 'any', 'some', 'for', 'with', 'end', 'into') then
                    of_type := word_at;
                    if word = 'zone' then
                        -- at time zone '...' is no type, timestamp with time zone '...' is one.
                        of_type := null;
                        if lower(array_to_string(a[greatest(word_at - 9, start):word_end], ''))
                           ~ '\mtime(stamp)?\s*(\(\s*\d+\s*\))?\s+with(out)?\s+time\s+zone$' then
                            k := word_end;
                            while lower(a[k]) not in ('with', 'without') loop k := k - 1; end loop;
                            k := k - 1;
                            while lower(a[k]) not in ('time', 'timestamp') loop k := k - 1; end loop;
                            of_type := k;
                        end if;
                    end if;
                    while of_type is not null and of_type > start + 1 and a[of_type - 1] = '.' loop
                        of_type := of_type - 2;
                    end loop;
                end if;
                lit := true;
                lit_at := i;
                chunk := i + 1;
                pieces := '[]';
                i := i + 1;
                continue;
            elsif c = '"' then
                j := i + 1;
                while j <= n and a[j] <> '"' loop j := j + 1; end loop;
                if j > n then
                    unclosed := 'a quoted name';
                end if;
                i := j + 1;
                continue;
            elsif c = '-' and a[i + 1] = '-' then
                j := i + 2;
                while j <= n and a[j] !~ '[\n\r]' loop j := j + 1; end loop;
                i := j;
                continue;
            elsif c = '/' and a[i + 1] = '*' then
                nested := 1;
                j := i + 2;
                while j <= n and nested > 0 loop
                    if a[j] = '/' and a[j + 1] = '*' then
                        nested := nested + 1;
                        j := j + 2;
                    elsif a[j] = '*' and a[j + 1] = '/' then
                        nested := nested - 1;
                        j := j + 2;
                    else
                        j := j + 1;
                    end if;
                end loop;
                if nested > 0 then
                    unclosed := 'a comment';
                end if;
                i := j;
                continue;
            elsif c = '(' then
                depth := depth + 1;
                i := i + 1;
                continue;
            elsif c = ')' then
                depth := depth - 1;
                i := i + 1;
                continue;
            elsif c = ';' then
                over := true;
                if start < i then
                    parts := parts || to_jsonb(array_to_string(a[start:i - 1], ''));
                end if;
                start := n + 1;
                i := i + 1;
                continue;
            elsif c ~ '^([A-Za-z_]|[^\x01-\x7f])' then
                j := i + 1;
                while a[j] = '$' or (a[j - 1] = '$' and a[j] ~ '^([A-Za-z0-9_]|[^\x01-\x7f])') loop j := j + 1; end loop;
                word := lower(array_to_string(a[i:j - 1], ''));
                word_at := i;
                word_end := j - 1;
                if opening is null then
                    opening := word;
                end if;
                if coalesce(a[i - 1], '') <> '.' then
                    if verb is null and (depth = 0 or opening <> 'with') and word <> 'with' then
                        if opening <> 'with' or word in ('select', 'insert', 'update', 'delete', 'merge', 'values', 'table') then
                            verb := word;
                            gives := verb in ('select', 'values', 'table', 'explain', 'show');
                        end if;
                    elsif word = 'returning' and depth = 0 then
                        gives := true;
                    end if;
                end if;
                i := j;
                continue;
            elsif c <> '$' then
                i := i + 1;
                continue;
            elsif a[i + 1] ~ '^[0-9]' then
                params := true;
                i := i + 2;
                continue;
            elsif a[i + 1] = '$' or (a[i + 2] = '$' and a[i + 1] ~ '^([A-Za-z_]|[^\x01-\x7f])') then
                tag := case when a[i + 1] = '$' then '' else a[i + 1] end;
                j := i + case when tag = '' then 2 else 3 end;
                while j <= n and not (a[j] = '$' and ((tag = '' and a[j + 1] = '$') or (a[j + 1] = tag and a[j + 2] = '$'))) loop
                    j := j + 1;
                end loop;
                if j > n then
                    unclosed := 'a dollar quote';
                end if;
                i := j + case when tag = '' then 2 else 3 end;
                continue;
            elsif a[i + 1] is null or a[i + 1] !~ '^([A-Za-z_]|[^\x01-\x7f])' then
                i := i + 1;
                continue;
            end if;
        end if;

        -- A reference begins at atom i.
        path := array[a[i + 1]];
        many := false;
        j := i + 2;
        while a[j] = '.' loop
            if a[j + 1] ~ '^([A-Za-z0-9_]|[^\x01-\x7f])' then
                path := path || a[j + 1];
                j := j + 2;
            elsif not lit and a[j + 1] = '*' then
                many := true;
                j := j + 2;
                exit;
            elsif not lit and a[j + 1] = '"' then
                k := j + 2;
                while k <= n and (a[k] <> '"' or a[k + 1] = '"') loop
                    k := k + case when a[k] = '"' then 2 else 1 end;
                end loop;
                if k > n then
                    unclosed := 'a quoted name';
                    exit;
                end if;
                path := path || replace(array_to_string(a[j + 2:k - 1], ''), '""', '"');
                j := k + 1;
            else
                exit;
            end if;
        end loop;
        safe := coalesce(a[j], '') = '?'
            and (lit or not (coalesce(a[j + 1], '') = '&' or (coalesce(a[j + 1], '') = '|' and coalesce(a[j + 2], '') <> '|')));
        if safe then
            j := j + 1;
        end if;
        part := jsonb_build_object('ref', path, 'safe', safe, 'src', array_to_string(a[i:j - 1], ''));
        if lit then
            pieces := pieces || to_jsonb(array_to_string(a[chunk:i - 1], '')) || part;
            chunk := j;
        else
            if many then
                -- `from $x.*` is given the name x, unless the query gives it one.
                k := j;
                while a[k] ~ '^\s' loop k := k + 1; end loop;
                part := part || jsonb_build_object('rows', true, 'alias', coalesce(a[k], '') !~ '^([A-Za-z_"]|[^\x01-\x7f])'
                    or lower(a[k]) in ('where', 'join', 'on', 'group', 'order', 'limit', 'left', 'right', 'inner', 'cross', 'full',
                        'natural', 'union', 'except', 'intersect', 'having', 'window', 'offset', 'fetch', 'for', 'tablesample',
                        'set', 'using', 'when', 'returning'));
            else
                -- $x::jsonb, ($x)::jsonb, cast($x as jsonb): of a string, its text is read as JSON.
                nested := 0;
                k := i - 1;
                while a[k] ~ '^(\s+|\()$' loop
                    nested := nested + case when a[k] = '(' then 1 else 0 end;
                    k := k - 1;
                end loop;
                tag := case when nested > 0 and lower(a[k]) = 'cast' then 'as' end;
                k := j;
                while a[k] ~ '^\s' or (nested > 0 and a[k] = ')') loop
                    nested := nested - case when a[k] = ')' then 1 else 0 end;
                    k := k + 1;
                end loop;
                if lower(array_to_string(a[k:k + 4], ''))
                   ~ (case when tag = 'as' then '^as\s+(pg_catalog\.)?jsonb?\M' else '^::\s*(pg_catalog\.)?jsonb?\M' end) then
                    part := part || '{"parse": true}';
                end if;
            end if;
            if i > start then
                parts := parts || to_jsonb(array_to_string(a[start:i - 1], ''));
            end if;
            parts := parts || part;
            start := j;
        end if;
        i := j;
    end loop;
    if lit then
        unclosed := 'a string';
    end if;
    if start <= n then
        parts := parts || to_jsonb(array_to_string(a[start:n], ''));
    end if;
    return jsonb_build_object('parts', parts, 'verb', verb, 'rows', gives, 'more', more, 'params', params, 'open', unclosed);
end
$$;
