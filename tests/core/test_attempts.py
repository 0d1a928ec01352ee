"""Attempts beyond what the column holds."""

from __future__ import annotations

import os
import select

import psycopg

from pgdurable._core import Flusher
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries


def test_an_attempt_beyond_smallint_is_kept_at_its_end(dsn: str, schema: str) -> None:
    migrations.migrate(dsn, schema)
    flusher = Flusher(named_queries("flush", schema))
    flusher.connect(dsn, None, [])
    for event_id, attempt in enumerate([1, 32767, 32768, 40000, 10**12], start=1):
        flusher.add_history(bytes(6) + os.urandom(10), event_id, 0, 7, 0.5, attempt, "step", "s", b"1", None, None)
    flusher.send(flusher.take())
    while not select.select([flusher.fileno], [], [], 10)[0] or flusher.ready() is None:
        pass
    flusher.close()
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(f"select attempt from {schema}.history order by event_id").fetchall()
    assert rows == [(1,), (32767,), (32767,), (32767,), (32767,)]
