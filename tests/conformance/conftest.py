"""One migrated schema for the scenarios of a module: each scenario's instances are its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from pgdurable._store.migrations import migrate


@pytest.fixture(scope="module")
def shared_schema(dsn: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    migrate(dsn, name)
    yield name
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set lock_timeout = '10s'")
        conn.execute("set client_min_messages = warning")
        conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name)))
