-- A sign for df.explain; in a database whose encoding lacks it, what comes close.
create or replace function df._sign(what text) returns text
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select case when getdatabaseencoding() = 'UTF8' then chr(s.code) else s.plain end
      from (values ('then', 8594, '->'), ('completed', 10003, 'v'), ('failed', 10007, 'x'), ('running', 9203, '>'),
                   ('skipped', 8856, '/'), ('pending', 9675, 'o'), ('body', 8635, '@'), ('branch', 9553, '|')
           ) as s (what, code, plain)
     where s.what = _sign.what
$$;
