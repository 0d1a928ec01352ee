"""A flusher belongs to one thread at a time; flushers of different threads have nothing to do with one another."""

from __future__ import annotations

import os
import select
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pgdurable._core import Flusher
from pgdurable._store import migrations
from pgdurable._store.sql import named_queries

from . import fake


def flush(flusher: Flusher) -> None:
    flusher.send(flusher.take())
    while True:
        writing = [flusher.fileno] if flusher.wants_write else []
        assert any(select.select([flusher.fileno], writing, [], 20))
        done = flusher.ready()
        if done is not None:
            assert done[0] == "committed"
            return


def test_threads_with_a_flusher_each(dsn: str, schema: str) -> None:
    migrations.migrate(dsn, schema)
    together = threading.Barrier(6)

    def work(thread: int) -> None:
        flusher = Flusher(named_queries("flush", schema), 20 if thread % 2 else 1_000_000)
        flusher.connect(dsn, None, [])
        together.wait(20)
        for turn in range(40):
            for n in range(turn + 1):
                id = struct.pack("!QII", thread, turn, n)
                flusher.add_history(id, 1, n, turn, 0.5, 1, "step", f"{thread}", b"[%d]" % n, None, object())
            flush(flusher)
        flusher.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            f"select name, count(*), count(distinct instance_id) from {schema}.history"
            " where payload = jsonb_build_array(seq) group by name order by name"
        ).fetchall()
    assert found == [(f"{thread}", 820, 820) for thread in range(6)]


def test_batches_are_let_go_in_other_threads(dsn: str, schema: str) -> None:
    # Their memory goes back to the flusher they came from, which fills the next meanwhile.
    flusher = Flusher({})
    with ThreadPoolExecutor(4) as pool:
        for turn in range(300):
            for n in range(turn % 90):
                flusher.add_history(bytes(6) + os.urandom(10), n, 0, 7, 0.5, 1, "step", "s", b"x" * turn, None, None)
            batch = flusher.take()
            assert len(batch) == turn % 90
            pool.submit(lambda batches: batches.clear(), [batch])
            del batch


def test_a_second_thread_in_a_flusher_gets_a_clear_error(tmp_path_factory: pytest.TempPathFactory) -> None:
    import socket

    folder = tmp_path_factory.mktemp("s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / ".s.PGSQL.5432"))
        listener.listen()
        flusher = Flusher(fake.STATEMENTS)
        dsn = f"host={folder} port=5432 dbname=x user=x sslmode=disable gssencmode=disable"
        with ThreadPoolExecutor(1) as pool:
            connecting = pool.submit(flusher.connect, dsn, None, [])
            client, _ = listener.accept()
            client.recv(1000)  # it waits for an answer now
            for call in (
                flusher.ready, flusher.notified, flusher.close, lambda: flusher.send(flusher.take()),
                lambda: flusher.connect(dsn, None, []),
            ):  # fmt: skip
                with pytest.raises(RuntimeError, match="another thread is in this flusher"):
                    call()
            # Adding goes on meanwhile, and looking.
            flusher.add_history(b"x" * 16, 1, 0, 7, 0.5, 1, "step", "s", b"1", None, None)
            assert (flusher.connected, flusher.idle, flusher.fileno, flusher.waiting) == (False, False, -1, 1)
            client.close()
            with pytest.raises(ConnectionError):
                connecting.result(20)
        assert flusher.close() is None
