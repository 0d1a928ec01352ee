-- What `pgdurable migrate` asks about roles and row-level security. Reads only.

-- name: missing
select w.name
  from pg_catalog.unnest(%s::pg_catalog.text[]) as w (name)
 where not exists (select from pg_catalog.pg_roles r where r.rolname = w.name)

-- name: admitted
-- Roles that were granted usage of the schema.
select r.rolname
  from pg_catalog.pg_namespace n
 cross join lateral pg_catalog.aclexplode(n.nspacl) a
  join pg_catalog.pg_roles r on r.oid = a.grantee
 where n.nspname = %s and a.privilege_type = 'USAGE'

-- name: row_security
select c.relrowsecurity
  from pg_catalog.pg_class c
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %s and c.relname = 'instances'

-- name: there
select r.rolname as name from pg_catalog.pg_roles r where r.rolname = any (%s::pg_catalog.text[]) order by 1
