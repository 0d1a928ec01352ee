"""A database with the schema df, for the tests of it: a database has one, so each test module has a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from databases import database

from pgdurable._store.migrations import migrate


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
