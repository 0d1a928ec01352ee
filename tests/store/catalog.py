"""What is in a schema, as lines that can be compared: whatever made it, the same text is the same schema."""

from __future__ import annotations

from typing import Any

import psycopg

# Each gives lines. `%(s)s` is the schema. Partitions of history come and go, and names of them tell of the time.
_LINES = {
    "schema": """
        select (select array_agg(a::text order by a::text)
                  from unnest(coalesce(n.nspacl, acldefault('n', n.nspowner))) a)::text
          from pg_namespace n where n.nspname = %(s)s""",
    "relation": """
        select format('%%s %%s %%s %%s %%s rls=%%s', c.relkind, c.relname, c.relpersistence, c.reloptions::text,
                      (select array_agg(a::text order by a::text) from unnest(coalesce(c.relacl,
                          acldefault(case c.relkind when 'S' then 's'::"char" else 'r' end, c.relowner))) a),
                      c.relrowsecurity)""",
    "column": """
        select format('%%s.%%s %%s %%s null=%%s id=%%s gen=%%s default=%%s %%s', c.relname, a.attname, a.attnum,
                      format_type(a.atttypid, a.atttypmod), not a.attnotnull, a.attidentity, a.attgenerated,
                      pg_get_expr(d.adbin, d.adrelid), a.attacl::text)""",
    "constraint": "select format('%%s %%s %%s', c.relname, o.conname, pg_get_constraintdef(o.oid))",
    "index": "select format('%%s valid=%%s', pg_get_indexdef(i.indexrelid), i.indisvalid)",
    "trigger": "select pg_get_triggerdef(t.oid)",
    "view": "select format('%%s: %%s', c.relname, pg_get_viewdef(c.oid))",
    "policy": "select format('%%s %%s %%s %%s %%s', c.relname, p.polname, p.polcmd, pg_get_expr(p.polqual, c.oid),"
    " p.polroles::regrole[]::text)",
    "comment": """
        select format('%%s.%%s: %%s', c.relname, x.objsubid, x.description)""",
}
_FROM = {
    "relation": "",
    "column": "join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
    " left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum",
    "constraint": "join pg_constraint o on o.conrelid = c.oid",
    "index": "join pg_index i on i.indrelid = c.oid",
    "trigger": "join pg_trigger t on t.tgrelid = c.oid and not t.tgisinternal",
    "view": "and c.relkind = 'v'",
    "policy": "join pg_policy p on p.polrelid = c.oid",
    "comment": "join pg_description x on x.classoid = 'pg_class'::regclass and x.objoid = c.oid",
}
_ROUTINES = """
select format('%%s %%s acl=%%s %%s', p.prokind, pg_get_functiondef(p.oid),
              (select array_agg(a::text order by a::text)
                 from unnest(coalesce(p.proacl, acldefault('f', p.proowner))) a), obj_description(p.oid, 'pg_proc'))
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = %(s)s and p.prokind <> 'a'
"""
_NO_PARTITION = """
  from pg_class c join pg_namespace n on n.oid = c.relnamespace {joins}
 where n.nspname = %(s)s and not c.relispartition and c.relkind in ('r', 'p', 'v', 'S', 'm', 'f')
"""
_REST = """
select o.kind || ' ' || o.name from (
    select 'type' as kind, t.typname as name, t.typnamespace as n from pg_type t where t.typtype in ('d', 'e', 'r')
    union all select 'operator', o.oprname, o.oprnamespace from pg_operator o
    union all select 'aggregate', p.proname, p.pronamespace from pg_proc p where p.prokind = 'a'
) o join pg_namespace n on n.oid = o.n where n.nspname = %(s)s
"""


def describe(conn: psycopg.Connection[Any], schema: str) -> list[str]:
    """Every table, column, constraint, index, function, trigger, view, right, policy and comment, in order."""
    found = []
    # Names are written in full: what is compared must not depend on the reader's search_path.
    conn.execute("set search_path = pg_catalog")
    for kind, text in _LINES.items():
        tail = "" if kind == "schema" else _NO_PARTITION.format(joins=_FROM[kind])
        found += [f"{kind} {row[0]}" for row in conn.execute((text + tail).encode(), {"s": schema})]
    for text in (_ROUTINES, _REST):
        found += [row[0] for row in conn.execute(text.encode(), {"s": schema})]
    conn.execute("reset search_path")
    return sorted(found)
