"""A batch whose commit got no answer is sent again: nothing twice, and every row keeps its first time.

Replay takes a transition's time from its row. Were the live run told the time of the second try, it would go on with
another `now()` than its replay will see.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgdurable._core import Batch, Flusher
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries

PATIENCE_S = 10.0


@pytest.fixture
def worker(dsn: str, schema: str) -> Iterator[int]:
    migrations.migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(f"select {schema}.join_worker('w', '[]', interval '1 hour')").fetchone()
        assert row is not None
        yield int(row[0])


def wait_readable(flusher: Flusher) -> None:
    assert select.select([flusher.fileno], [], [], PATIENCE_S)[0], "no answer from the server"


def outcome(flusher: Flusher) -> Any:
    while True:
        wait_readable(flusher)
        done = flusher.ready()
        if done is not None:
            return done


def fill(flusher: Flusher, worker: int, ids: list[bytes]) -> Batch:
    for place, id in enumerate(ids):
        flusher.add_instance(id, "w", "1", "running", "default", worker, b"{}", ("instance", place))
        flusher.add_history(id, 1, 0, 7, 0.5, 1, "step", "s", b'"x"', None, ("history", place))
    return flusher.take()


@pytest.mark.parametrize("copy_from", [1_000_000, 1], ids=["pipeline", "copy"])
@pytest.mark.parametrize("kept", ["all", "none", "some"])
def test_times_of_rows_sent_again(dsn: str, schema: str, worker: int, copy_from: int, kept: str) -> None:
    flusher = Flusher(named_queries("flush", schema), copy_from)
    flusher.connect(dsn, worker, [])
    ids = [bytes(6) + os.urandom(10) for _ in range(5)]
    with psycopg.connect(dsn, autocommit=True) as conn:
        if kept == "none":
            # The answer is lost and so is the transaction: another session holds the table until we are gone.
            with conn.transaction():
                conn.execute(f"lock table {schema}.history in exclusive mode")
                flusher.send(fill(flusher, worker, ids))
                conn.execute("select pg_terminate_backend(%s)", (flusher.backend_pid,))
                with pytest.raises(ConnectionError):
                    outcome(flusher)
        else:
            sent = ids if kept == "all" else ids[:2]
            flusher.send(fill(flusher, worker, sent))
            if copy_from == 1:
                assert outcome(flusher)[0] == "committed"
            else:
                wait_readable(flusher)  # committed, and nobody has read the answer
        batch = flusher.close()
        if batch is None or kept == "some":
            batch = fill(flusher, worker, ids)
            batch.again = True
        assert batch.again
        before = conn.execute("select now()").fetchone()
        assert before is not None
        flusher.connect(dsn, worker, [])
        flusher.send(batch)
        kind, answered, at_us, times = outcome(flusher)
        assert (kind, answered) == ("committed", batch)
        rows = conn.execute(
            f"""select h.instance_id, i.created_at, h.recorded_at
                  from {schema}.history h join {schema}.instances i on i.id = h.instance_id"""
        ).fetchall()
        assert sorted(row[0].bytes for row in rows) == sorted(ids)
        recorded = {row[0].bytes: (micros(row[1]), micros(row[2])) for row in rows}
        assert len(times) == len(batch.tags) == 2 * len(ids)
        for (what, place), time in zip(batch.tags, times, strict=True):
            assert time == recorded[ids[place]][what == "history"]
        old = [id for id in ids if recorded[id][1] < micros(before[0])]
        assert len(old) == {"all": 5, "none": 0, "some": 2}[kept]
        assert all(recorded[id][1] == at_us for id in ids if id not in old)
    flusher.close()


def micros(at: Any) -> int:
    return int(at.replace(microsecond=0).timestamp()) * 1_000_000 + int(at.microsecond)
