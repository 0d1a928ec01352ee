"""The opt-in schema `df`: the names and operators of another extension over one namespace. The SQL is in `sql/df`.

A database has one. Whose it is, and which text of it is installed, stands in the schema's comment.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import psycopg
from psycopg import sql

from pgdurable._store.sql import split_commands, sql_files, substitute
from pgdurable.errors import SchemaError

__all__ = ["drop", "install", "namespace_of"]

# The operators are found without a schema's name, so they live where everybody looks.
_OPERATORS = "public"
_COMMENT = "pgdurable: df of namespace {schema}, {digest}"
_READ = "select pg_catalog.obj_description(pg_catalog.to_regnamespace('df')::oid, 'pg_namespace')"


def _texts(folder: str, schema: str) -> list[str]:
    found = [substitute(text, schema).replace("@operators@", _OPERATORS) for _, text in sql_files(folder)]
    return [command for text in found for command in split_commands(text)]


def _commands(schema: str) -> list[str]:
    parts = ("df/tables", "df/functions", "df/views", "df/operators", "df")
    return [command for folder in parts for command in _texts(folder, schema)]


def _there(cur: psycopg.Cursor[Any]) -> tuple[str, str] | None:
    """The namespace whose df is there, and the digest of its text; ("", "") when it is somebody else's; None: none."""
    cur.execute("select pg_catalog.to_regnamespace('df') is not null", prepare=False)
    row = cur.fetchone()
    if row is None or not row[0]:
        return None
    cur.execute(_READ, prepare=False)
    row = cur.fetchone()
    found = re.fullmatch(r"pgdurable: df of namespace (\w+), (\w+)", (row and row[0]) or "")
    return (found[1], found[2]) if found else ("", "")


def namespace_of(cur: psycopg.Cursor[Any]) -> str | None:
    """The namespace over which this database's schema df works; None when there is no df of ours."""
    there = _there(cur)
    return there[0] if there and there[0] else None


def install(cur: psycopg.Cursor[Any], schema: str) -> bool:
    """Makes the schema df over a namespace, or renews it. Returns whether anything changed.

    Raises SchemaError: there is a df of another namespace, or of something else.
    """
    there = _there(cur)
    if there is not None and there[0] != schema:
        whose = f"of namespace {there[0]}" if there[0] else "that pgdurable did not make"
        raise SchemaError(
            f"there is a schema df {whose}",
            detail=f"Expected none, or that of namespace {schema}.",
            hint="A database has one schema df. Drop that one first, if that is what you want.",
        )
    commands = _commands(schema)
    digest = hashlib.sha256("\0".join(commands).encode()).hexdigest()[:32]
    if there is not None and there[1] == digest:
        return False
    if there is None:
        cur.execute("create schema df")
    # As for the namespace's own: bodies may name one another in any order.
    cur.execute("set local check_function_bodies = off")
    for command in commands:
        cur.execute(command.encode())
    cur.execute("set local check_function_bodies = on")
    said = sql.Literal(_COMMENT.format(schema=schema, digest=digest))
    cur.execute(sql.SQL("comment on schema df is {}").format(said))
    return True


def drop(cur: psycopg.Cursor[Any], schema: str) -> bool:
    """Drops the schema df, its operators and what stands in it, if it is this namespace's. Returns whether it was."""
    there = _there(cur)
    if there is None or there[0] != schema:
        return False
    cur.execute("drop schema df cascade")
    return True
