"""Worker processes of benchmarks: real processes that can be killed, spoken to in JSON lines.

`Worker` is the benchmark's side; `python -m benchmarks.worker DSN SCHEMA OPTIONS` the process.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Worker:
    """A process with an open engine. Use it in a `with` block: it is killed at the end if it still runs.

    Args:
        wait: return when it has joined; else `up` waits for that.
        options: keyword arguments of `Engine`.
    """

    def __init__(self, dsn: str, schema: str, wait: bool = True, **options: Any) -> None:
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  # closed with this object
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", dsn, schema, json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, cwd=ROOT, text=True,
        )  # fmt: skip
        self.worker = 0
        if wait:
            self.up()

    def up(self) -> None:
        """Waits until it has joined the workers; it tries until the server accepts it."""
        self.worker = int(self._answer()["worker"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    def ask(self, do: str, **what: Any) -> Any:
        """Has the process do something (see `Commands`) and returns its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self.process.stdin.flush()
        return self._answer()["answer"]

    def kill(self) -> float:
        """SIGKILL. Returns the time at which it was sent."""
        at = time.time()
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        return at

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"a worker ended with {self.process.returncode}:\n{self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Commands:
    """What a worker process does when asked."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    async def start_many(self, workflow: str, argument: Any, number: int) -> int:
        """Starts so many instances of a workflow; returns once all are durable."""
        return len(await self.engine.start_many(workflow, (argument for _ in range(number))))

    async def count(self) -> dict[str, int]:
        """Instances in memory, how often a workflow's code has got to its wait, transitions not yet durable."""
        from benchmarks.workflows import RESUMED

        metrics = self.engine.metrics()
        return {"instances": metrics["instances"], "resumed": len(RESUMED), "waiting": metrics["waiting"]}

    async def until_resumed(self, number: int, limit: float) -> dict[str, Any]:
        """Waits until so many instances have got to their wait, and tells when, in time.time()."""
        from benchmarks.workflows import RESUMED

        await reached(lambda: len(RESUMED) >= number, limit)
        offset = time.time() - time.perf_counter()
        return {"at": [at + offset for at in RESUMED], "phases": TRACE}

    async def woken(self, number: int, limit: float) -> list[tuple[int, float]]:
        """Waits until so many signals were had, and tells which and when; forgets them."""
        from benchmarks.workflows import WOKEN

        await reached(lambda: len(WOKEN) >= number, limit)
        found = WOKEN.copy()
        WOKEN.clear()
        return found

    async def usage(self) -> dict[str, float]:
        """CPU seconds so far and resident memory in bytes."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240
        return {"cpu_s": used.ru_utime + used.ru_stime, "rss": pages * os.sysconf("SC_PAGE_SIZE")}


async def reached(condition: Callable[[], bool], limit: float, pause: float = 0.002) -> bool:
    """Waits until the condition holds, at most so many seconds. Returns whether it does."""
    deadline = time.monotonic() + limit
    while not (holds := condition()) and time.monotonic() < deadline:  # noqa: ASYNC110  # nobody rings for a list
        await asyncio.sleep(pause)
    return holds


# Of a takeover: `..._at` in time.time() (the last time, where it happens often), `..._s` seconds spent.
TRACE: dict[str, float] = {}


def trace(schema: str) -> None:
    """Notes when another worker is noticed to be gone, and how long claiming, loading and replaying take."""
    import psycopg

    from pgdurable._engine.membership import Membership
    from pgdurable._store.sql import named_queries

    execute, gone = psycopg.AsyncConnection.execute, Membership._gone

    sql = named_queries("worker", schema)
    phases = {sql["claim"]: "claim", sql["load_history"]: "load"}

    async def traced_execute(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        phase = phases.get(str(query))
        began = time.perf_counter()
        try:
            return await execute(self, query, *args, **kwargs)
        finally:
            if phase is not None and "declared_at" in TRACE:
                TRACE[f"{phase}_s"] = TRACE.get(f"{phase}_s", 0.0) + time.perf_counter() - began
                TRACE[f"{phase}ed_at"] = time.time()

    def traced_gone(self: Any, others: Any) -> Any:
        if any(absent for _, _, _, absent in others):
            TRACE.setdefault("noticed_at", time.time())
        found = gone(self, others)
        if found:
            TRACE.setdefault("declared_at", time.time())
        return found

    psycopg.AsyncConnection.execute = traced_execute  # type: ignore[method-assign,assignment]
    Membership._gone = traced_gone  # type: ignore[method-assign,assignment]


def trace_replay(host: Any) -> None:
    """Times this host's replays. Its class is compiled and stays as it is."""
    resume = host.resume

    async def traced_resume(*args: Any) -> None:
        began = time.perf_counter()
        await resume(*args)
        TRACE["replay_s"] = TRACE.get("replay_s", 0.0) + time.perf_counter() - began

    host.resume = traced_resume


async def main(dsn: str, schema: str, options: dict[str, Any]) -> None:
    import pgdurable as pgd
    from benchmarks.workflows import WORKFLOWS

    traced = options.pop("trace", False)
    if traced:
        trace(schema)
    loop = asyncio.get_running_loop()
    asked = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    engine = pgd.Engine(dsn, schema=schema, workflows=WORKFLOWS, **options)
    deadline = time.monotonic() + 60
    while True:
        try:
            await engine.open()
            break
        except pgd.ConnectionFailed:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
    async with engine:
        commands = Commands(engine)
        if traced:
            trace_replay(engine._worker.host)
        TRACE["joined_at"] = time.time()
        print(json.dumps({"worker": engine._worker.membership.worker}), flush=True)
        while line := await asked.readline():
            request = json.loads(line)
            answer = await getattr(commands, request.pop("do"))(**request)
            print(json.dumps({"answer": answer}), flush=True)


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with whoever started it
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
