-- What a type is like to `bind`: its qualified name, and `json`, `array`, `record`, `range`, `xml`, `hstore`, `tsearch`,
-- `jsonpath` or `plain`; a domain is as what it is over.
create or replace function @extschema@.type_kind(type oid, out name text, out kind text)
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    with recursive down as (
        select t.oid, t.typtype, t.typbasetype, t.typname, t.typcategory
          from pg_type t where t.oid = type_kind.type
        union all
        select t.oid, t.typtype, t.typbasetype, t.typname, t.typcategory
          from down d join pg_type t on t.oid = d.typbasetype where d.typtype = 'd')
    select (select format('%I.%I', n.nspname, t.typname) from pg_type t join pg_namespace n on n.oid = t.typnamespace
             where t.oid = type_kind.type),
           case when d.typname in ('json', 'jsonb') then 'json'
                when d.typcategory = 'A' then 'array'
                when d.typtype = 'c' then 'record'
                when d.typtype in ('r', 'm') then 'range'
                when d.typname in ('xml', 'hstore', 'jsonpath') then d.typname
                when d.typname in ('tsquery', 'tsvector') then 'tsearch'
                else 'plain' end
      from down d where d.typtype <> 'd'
$$;
