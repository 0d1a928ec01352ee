-- A text with {name} replaced by the variable of that name, as it is; what is no variable's name stays.
--
-- What is put in is not looked at again.
create or replace function df._fill(template text, vars jsonb) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case when template !~ '\{[A-Za-z_]\w*\}' then template else (
        select string_agg(p.part || coalesce(case when n.name is null then ''
                                             else coalesce(vars ->> n.name, '{' || n.name || '}') end, ''), '' order by p.n)
          from regexp_split_to_table(template, '\{[A-Za-z_]\w*\}') with ordinality as p (part, n)
          left join (select m.m[1] as name, m.n
                       from regexp_matches(template, '\{([A-Za-z_]\w*)\}', 'g') with ordinality as m (m, n)) n on n.n = p.n)
        end
$$;
