"""What the tests of the command line share: a way to run commands, a namespace to run them on, workers as processes."""

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
from typer.testing import CliRunner, Result

from pgdurable._store.migrations import migrate
from pgdurable.cli.app import app

Run = Callable[..., Result]

# What stands around a developer must not lead a test to another database.
AROUND = ("PGDURABLE_DSN", "PGDURABLE_SCHEMA", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGSERVICE")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AROUND:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bare_run() -> Run:
    """Runs a command in this process, told nothing of a database."""

    def run(*words: str, **options: Any) -> Result:
        result = CliRunner().invoke(app, list(words), prog_name="pgdurable", **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception  # a traceback is a bug of ours
        return result

    return run


@pytest.fixture
def new_run(bare_run: Run, dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As `bare_run`, on a schema that is not migrated."""
    monkeypatch.setenv("PGDURABLE_DSN", dsn)
    monkeypatch.setenv("PGDURABLE_SCHEMA", schema)
    return bare_run


@pytest.fixture
def run(new_run: Run, dsn: str, schema: str) -> Run:
    """As `bare_run`, on a migrated schema."""
    migrate(dsn, schema)
    return new_run


@pytest.fixture
def sql(dsn: str, schema: str) -> Iterator[Callable[..., list[tuple]]]:
    """Runs a statement in which `@` is the schema, and gives its rows."""
    with psycopg.connect(dsn, autocommit=True) as conn:

        def execute(text: str, *args: Any) -> list[tuple]:
            cursor = conn.execute(text.replace("@", schema), args or None)
            return cursor.fetchall() if cursor.description else []

        yield execute


class Process:
    """A `pgdurable` command as a process of its own."""

    def __init__(self, words: tuple[str, ...], cwd: Path) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "pgdurable.cli", *words],
            cwd=cwd, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.append(line)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def said(self, text: str) -> Callable[[], bool]:
        """A condition: the process has printed this. Fails when it has ended without."""

        def check() -> bool:
            over = self.child.poll() is not None
            if over:
                self._reader.join()
            if text in self.output:
                return True
            assert not over, f"it ended ({self.child.returncode}) without saying {text!r}:\n{self.output}"
            return False

        return check

    def tell(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def ended(self, timeout: float = 30) -> int:
        """Its exit code, once it has ended."""
        code = self.child.wait(timeout)
        self._reader.join()
        return code

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        self._reader.join()
        assert self.child.stdout is not None
        self.child.stdout.close()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts commands as processes in `tmp_path`; those still there at the end are killed."""
    started: list[Process] = []

    def start(*words: str) -> Process:
        started.append(Process(words, tmp_path))
        return started[-1]

    yield start
    for child in started:
        child.kill()
