"""The processes the demo starts, kills and clears away: workers, and (in pgdurable.EmbeddedServer) a database."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import IO

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """One worker process. Its name is what `durable.workers` calls it."""

    def __init__(self, dsn: str, name: str, seed: int, log: IO[bytes]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.orders.worker", dsn, name],
            cwd=ROOT,
            env={**os.environ, "SHOP_SEED": str(seed)},
            stdin=subprocess.PIPE,  # closed when this process goes, however it goes: then the worker goes too
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        self.killed = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL: no warning, no clean-up."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Asks it to go, and makes it go."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


class Workers:
    """All workers of one run; none is left when the `with` block ends."""

    def __init__(self, dsn: str, run: int, seed: int) -> None:
        self._dsn = dsn
        self._run = run
        self._seed = seed
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # has no name, so nothing stays behind
        self.all: list[Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for worker in self.all:
            if error is not None:
                worker.kill()
            else:
                worker.stop()
        self._log.close()

    @property
    def current(self) -> Worker:
        return self.all[-1]

    def start(self) -> Worker:
        worker = Worker(self._dsn, f"shop {self._run}.{len(self.all) + 1}", self._seed, self._log)
        self.all.append(worker)
        return worker

    def died(self) -> str | None:
        """What a worker said that ended without being asked to; None when all is well."""
        for worker in self.all:
            if not worker.killed and worker.process.poll() is not None:
                self._log.seek(0)
                said = b"".join(deque(self._log, 25)).decode(errors="replace")
                return f"{worker.name} ended by itself (exit code {worker.process.returncode}):\n{said}"
        return None
