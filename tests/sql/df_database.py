"""A database with the schema df, for the tests of it: a database has one, so each test module has a database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgdurable._store.migrations import migrate

if TYPE_CHECKING:
    from typing_extensions import LiteralString


@contextmanager
def database(dsn: str) -> Iterator[str]:
    """A new database, dropped afterwards with whatever is connected to it."""
    name = f"test_df_{uuid.uuid4().hex[:12]}"
    _command(dsn, "create database {}", name)
    try:
        yield make_conninfo(dsn, dbname=name)
    finally:
        _command(dsn, "drop database {} with (force)", name)


def _command(dsn: str, text: LiteralString, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL(text).format(sql.Identifier(name)))


@contextmanager
def df_database(dsn: str) -> Iterator[str]:
    """A new database with the namespace durable and the schema df over it."""
    with database(dsn) as there:
        migrate(there, df=True)
        yield there


def one(conn: psycopg.Connection[Any], text: str, *args: object) -> Any:
    """The only value of a query."""
    row = conn.execute(text.encode(), args or None).fetchone()
    assert row is not None
    return row[0]
