"""Databases of a test's own, for what a database has one of: the schema `durable` of the examples, the schema df."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from typing_extensions import LiteralString


@contextmanager
def database(dsn: str) -> Iterator[str]:
    """A new database, dropped afterwards with whatever is connected to it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    _command(dsn, "create database {}", name)
    try:
        yield make_conninfo(dsn, dbname=name)
    finally:
        _command(dsn, "drop database {} with (force)", name)


def _command(dsn: str, text: LiteralString, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL(text).format(sql.Identifier(name)))
