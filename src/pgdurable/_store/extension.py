"""A schema that is an extension of PostgreSQL: what `migrate` and `uninstall` do with one.

Its files, which a server must have for that, are made by `extension_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from pgdurable._store import roles
from pgdurable._store.sql import substitute
from pgdurable.errors import SchemaError

__all__ = ["Installed", "adopt", "installed", "take_in", "update"]

_MEMBERSHIP = """
select e.extname, e.extversion
  from pg_catalog.pg_depend d
  join pg_catalog.pg_extension e on e.oid = d.refobjid
 where d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
   and d.objid = pg_catalog.to_regnamespace(%s)
   and d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and d.deptype = 'e'
"""


@dataclass(frozen=True)
class Installed:
    """The extension that a schema is part of: its name and its version as PostgreSQL knows it."""

    name: str
    version: str


def installed(cur: psycopg.Cursor[Any], schema: str) -> Installed | None:
    """The extension that the schema is part of, or None."""
    cur.execute(_MEMBERSHIP, (schema,), prepare=False)
    row = cur.fetchone()
    return None if row is None else Installed(*row)


def update(cur: psycopg.Cursor[Any], schema: str, there: Installed, latest: int) -> None:
    """Brings the extension to this library's version, by the server's own scripts.

    Raises:
        SchemaError: the server has no scripts for this version.
    """
    cur.execute(
        "select exists (select from pg_catalog.pg_extension_update_paths(%s) p"
        " where p.source = %s and p.target = %s and p.path is not null)",
        (there.name, there.version, str(latest)),
        prepare=False,
    )
    if (cur.fetchone() or (False,))[0] is not True:
        raise SchemaError(
            f"schema {schema} is the extension {there.name} at version {there.version}, "
            "and the server has no script that updates it to this library's",
            detail=f"Expected a path to version {latest}, found none.",
            hint=f"On the server's machine: pgdurable extension --schema {schema}, then run this again.",
        )
    cur.execute(sql.SQL("alter extension pgdurable update to {}").format(sql.Literal(str(latest))))


def take_in(cur: psycopg.Cursor[Any], schema: str) -> None:
    """Makes objects of the schema that are no part of its extension yet part of it."""
    text = (files("pgdurable") / "_sql" / "extension" / "adopt.sql").read_text(encoding="utf-8")
    cur.execute(substitute(text, schema).encode(), prepare=False)


def adopt(cur: psycopg.Cursor[Any], schema: str, latest: int) -> None:
    """Makes an extension of a migrated schema, with all that it holds. The server must have this version's files.

    Raises:
        SchemaError: the server has no files of the extension at this version, or for another schema.
    """
    cur.execute(
        "select exists (select from pg_catalog.pg_available_extension_versions v"
        " where v.name = 'pgdurable' and v.version = %s)",
        (str(latest),),
        prepare=False,
    )
    if (cur.fetchone() or (False,))[0] is not True:
        raise SchemaError(
            f"the server has no extension pgdurable of version {latest}",
            hint=f"On the server's machine: pgdurable extension --schema {schema}, then run this again.",
        )
    # What is granted while an object becomes a part counts as the extension's own, and a dump leaves it out.
    granted = roles.setup_of(cur, schema)
    if granted is not None:
        roles.revoke(cur, schema, granted)
    cur.execute(b"create extension pgdurable version 'unpackaged'")
    cur.execute(b"alter extension pgdurable update")
    if granted is not None:
        roles.grant(cur, schema, granted)
    if installed(cur, schema) is None:
        raise SchemaError(
            f"the server's extension pgdurable is for another schema than {schema}",
            hint=f"On the server's machine: pgdurable extension --schema {schema}, then run this again.",
        )
