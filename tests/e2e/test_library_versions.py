"""A deploy of the library itself without a stop: workers of an older one run beside today's on a migrated schema.

The older library is that of schema version 9, built by scripts/setup_old_library.sh.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._store.migrations import current_version, latest_version, migrate

from .library_worker import flow
from .namespace import until

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / ".test-servers" / "library-9"
PROGRAM = Path(__file__).with_name("library_worker.py")


class OldWorker:
    """A process that runs the older library."""

    def __init__(self, dsn: str, schema: str, *starts: str) -> None:
        self.lines: list[str] = []
        self.child = subprocess.Popen(
            [sys.executable, str(PROGRAM), dsn, schema, *starts],
            env={**os.environ, "PYTHONPATH": str(OLD / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.append(line.rstrip("\n"))

    def ran(self) -> list[str]:
        return [line.removeprefix("ran ") for line in self.lines if line.startswith("ran ")]

    def stop(self) -> int:
        """Lets it drain; returns its exit code."""
        self.child.send_signal(signal.SIGTERM)
        code = self.child.wait(60)
        self._reader.join(10)
        return code

    def end(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait(10)
        self._reader.join(10)
        assert self.child.stdout is not None
        self.child.stdout.close()


Old = Callable[..., OldWorker]


@pytest.fixture
def old(dsn: str, schema: str) -> Iterator[Old]:
    """Starts workers of the older library, on a schema that it has migrated."""
    if not (OLD / "built").exists():
        if os.environ.get("CI"):
            pytest.fail("there is no older library: scripts/setup_old_library.sh builds it")
        pytest.skip("there is no older library: scripts/setup_old_library.sh builds it")
    subprocess.run(
        [sys.executable, "-c", "import sys; from pgdurable._store.migrations import migrate; migrate(*sys.argv[1:])",
         dsn, schema],
        env={**os.environ, "PYTHONPATH": str(OLD / "src")}, check=True, timeout=60,
    )  # fmt: skip
    workers: list[OldWorker] = []

    def start(*starts: str) -> OldWorker:
        workers.append(OldWorker(dsn, schema, *starts))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


async def up(worker: OldWorker, line: str) -> None:
    await until(lambda: any(line in text for text in worker.lines) or worker.child.poll() is not None, line, 60)
    assert worker.child.poll() is None, worker.lines


def history(dsn: str, schema: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        text = f"select k.id, h.kind, h.name from {schema}.history h join {schema}.instance_keys k using (instance_id)"
        return conn.execute(text.encode()).fetchall()


async def test_a_schema_is_migrated_under_a_worker_of_the_older_library(old: Old, dsn: str, schema: str) -> None:
    """It finishes what it holds, hands over the rest, and nothing runs twice."""
    before = old("kept", "handed")
    await up(before, "started")
    await until(lambda: len(before.ran()) == 4, "both wait for their signal", 60)
    with psycopg.connect(dsn) as conn:
        assert current_version(conn, schema) == 9
    report = migrate(dsn, schema)
    assert (report.before, report.after) == (9, latest_version())
    async with pgd.Client(dsn, schema=schema) as client:
        kept = await client.get("kept")
        await kept.signal("go", "now")
        assert await kept.result(60) == ["kept.0", "kept.1", "now", "kept.late0", "kept.late1"]
        assert "kept.late1" in before.ran()  # by the older library, on the newer schema
        async with pgd.Engine(dsn, schema=schema, workflows=[flow], poll_interval=0.2) as engine:
            new = await engine.start(flow, "new", id="new")
            assert before.stop() == 0, before.lines
            for id in ("handed", "new"):
                await client.signal(id, "go", "later")
            handed = await client.get("handed")
            assert await handed.result(60) == ["handed.0", "handed.1", "later", "handed.late0", "handed.late1"]
            assert (await new.result(60))[2] == "later"
    assert sorted(before.ran()) == ["handed.0", "handed.1", "kept.0", "kept.1", "kept.late0", "kept.late1"]
    rows = [row for row in history(dsn, schema) if row[1] == "step"]
    assert len(rows) == 12


async def test_histories_of_the_older_library_are_taken_over_after_its_death(old: Old, dsn: str, schema: str) -> None:
    before = old("a", "b", "c")
    await up(before, "started")
    await until(lambda: len(before.ran()) == 6, "all wait for their signal", 60)
    migrate(dsn, schema)
    before.child.kill()
    async with pgd.Engine(dsn, schema=schema, workflows=[flow], poll_interval=0.2) as engine:
        for id in ("a", "b", "c"):
            handle = await engine.get(id)
            await handle.signal("go", "x")
            assert await handle.result(60) == [f"{id}.0", f"{id}.1", "x", f"{id}.late0", f"{id}.late1"]


async def test_an_older_library_is_refused_by_a_newer_schema_with_what_to_do(old: Old, dsn: str, schema: str) -> None:
    migrate(dsn, schema)
    late = old("x")
    await until(lambda: late.child.poll() is not None, "it gives up", 60)
    late._reader.join(10)
    text = "\n".join(late.lines)
    assert late.child.returncode == 1
    assert f"error: schema {schema} is at version {latest_version()}, newer than this library knows" in text
    assert f"Expected version 9, found {latest_version()}." in text
    assert "pip install --upgrade pgdurable" in text


async def test_a_newer_library_is_refused_by_an_older_schema_with_what_to_do(old: Old, dsn: str, schema: str) -> None:
    with pytest.raises(pgd.SchemaError, match="is at version 9, older than this library needs") as refused:
        async with pgd.Client(dsn, schema=schema):
            pass
    assert f"pgdurable migrate --schema {schema}" in str(refused.value)
