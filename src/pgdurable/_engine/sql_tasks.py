"""What workflows in SQL ask of a worker: Python steps that this process has, and HTTP requests.

A task is this worker's once `claim_tasks` has committed; only then does it run. Its end is an event of the instance, in
one commit with the end of the task (`finish_tasks`). Results that come at the same time share a commit. Whether, and
when, a failure is followed by another attempt is up to the workflow: see the machine in SQL.

What was cancelled is found out within a second, and its attempt stopped. A worker that dies holds its tasks until
others declare it dead; `free_tasks` then gives them to the next, as another attempt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine import probes
from pgdurable._engine.answers import borrow
from pgdurable._engine.clock import micros
from pgdurable._engine.http_step import HttpStep, RequestFailed
from pgdurable._engine.python_task import PythonTask
from pgdurable._engine.tasks import Bell, end_tasks, heed_cancel
from pgdurable._failure import encode_error
from pgdurable._secret import server_said
from pgdurable._step_names import StepNames
from pgdurable._store.sql import named_queries
from pgdurable.codec import encode
from pgdurable.errors import CodecError, InvalidInput, PgDurableError, RetryAfter, StepTimeout
from pgdurable.http import Http

if TYPE_CHECKING:
    from pgdurable._engine.host import Host

__all__ = ["SqlTasks"]

logger = logging.getLogger("pgdurable.steps")

_MOST = 100
_NOTE_S = 0.5
# Looking for what dead workers have left, and for what nobody waits for.
_FREE_EVERY_S, _DROP_EVERY_S = 2.0, 30.0
_AGAIN_S = 0.2
_LONGEST_WAIT_S = 60.0


class _Running:
    """A task that runs here."""

    def __init__(self, row: Any, worker: int) -> None:
        self.id: UUID = row[0]
        self.seq: int = row[1]
        self.kind: str = row[2]
        self.name: str = row[3]
        self.attempt: int = row[4]
        self.timeout: float | None = row[5]
        self.request: dict[str, Any] = msgspec.json.decode(row[6] or "{}")
        self.details: str | None = row[7]
        self.key: str | None = row[10]
        self.worker = worker
        self.started = time.perf_counter()
        self.python: PythonTask | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def place(self) -> tuple[UUID, int]:
        return self.id, self.seq

    @property
    def label(self) -> str:
        return f"instance {self.key or self.id}: step {self.name}, attempt {self.attempt}"


class SqlTasks:
    """See the head of this file.

    Args:
        pool: the clients' connections, so that none of this keeps a lease from being renewed.
        names: the steps there are.
        http: what requests may do; None: this worker makes none.
        queues: those it listens to; None: all.
        interval: seconds between two looks when nothing hints.

    Attributes:
        looking: a look is under way; one that has begun before a stop may still claim.
    """

    def __init__(
        self, host: Host, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], schema: str, names: StepNames,
        http: Http | None, queues: list[str] | None, interval: float,
    ) -> None:  # fmt: skip
        self._host = host
        self._pool = pool
        self._sql = named_queries("tasks", schema)
        self._names = names
        self._http = None if http is None else HttpStep(http)
        self._queues = queues
        self._interval = interval
        self._bell = Bell()
        self._alarm: asyncio.TimerHandle | None = None
        self._running: dict[tuple[UUID, int], _Running] = {}
        self._ended: list[tuple[_Running, bytes]] = []
        self._ending = Bell()
        self._freed = self._dropped = 0.0
        self._told: set[str] = set()
        self.looking = False

    # -- looking -------------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Looks as soon as possible."""
        self._bell.ring()

    async def run(self) -> None:
        """Looks until cancelled. Trouble with the server is waited out."""
        ends = asyncio.get_running_loop().create_task(self._keep_ending())
        notes = asyncio.get_running_loop().create_task(self._keep_noting())
        try:
            while True:
                heed_cancel()
                self._bell.clear()
                self.looking = True
                try:
                    while await self._look():
                        pass
                except (psycopg.Error, OSError) as error:
                    # Taken over: the membership finds out, and joins anew.
                    logger.debug("tasks of SQL workflows are not looked for: %s", server_said(error))
                self.looking = False
                await self._bell.wait(self._interval)
        finally:
            await end_tasks(ends, notes)

    async def _look(self) -> bool:
        """One look. Returns whether there may be more at once."""
        host = self._host
        room = _MOST - len(self._running)
        steps = self._names.usable()
        self._tell_doubtful()
        if host.fenced or host.draining or room <= 0:
            return False
        worker = host.worker
        async with borrow(self._pool) as conn:
            now = time.monotonic()
            if now - self._freed > _FREE_EVERY_S:
                self._freed = now
                await conn.execute(self._sql["free_tasks"])
            if now - self._dropped > _DROP_EVERY_S:
                self._dropped = now
                await conn.execute(self._sql["drop_stale_tasks"])
            params = (worker, list(steps), self._http is not None, room, self._queues)
            rows = await (await conn.execute(self._sql["claim_tasks"], params)).fetchall()
        if rows and rows[-1][0] is None:
            self._look_at(rows.pop()[8])
        if rows and probes.armed:
            probes.reach("tasks.claimed")
        for row in rows:
            self._begin(_Running(row, worker), steps)
        return len(rows) == room

    def _look_at(self, at: datetime) -> None:
        now_us = self._host.clock.now_us()
        wait = min(max((micros(at) - now_us) / 1e6, 0.005), _LONGEST_WAIT_S) if now_us else 1.0
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._host.loop.call_later(wait, self._bell.ring)

    def _tell_doubtful(self) -> None:
        for name, full in self._names.doubtful().items():
            if name not in self._told:
                self._told.add(name)
                logger.debug(
                    "several steps are named %s: workflows in SQL can ask for them by %s only", name, ", ".join(full)
                )

    # -- running -------------------------------------------------------------------------------------------------

    def _begin(self, running: _Running, steps: dict[str, Any]) -> None:
        if running.kind == "python":
            running.python = PythonTask(
                self._host, steps[running.name], running.name, running.id, running.key, running.seq, running.attempt,
                running.details,
            )  # fmt: skip
        self._running[running.place] = running
        self._host.steps_running += 1  # a worker that drains waits for them as for its own
        running.task = self._host.loop.create_task(self._perform(running))

    async def _perform(self, running: _Running) -> None:
        try:
            if running.python is not None:
                output = await running.python.run(running.request, running.timeout)
            else:
                assert self._http is not None
                response = await self._http.run(running.id, running.seq, running.request, running.timeout)
                output = encode(response, limit=None)
        except asyncio.CancelledError:
            self._gone(running)
            raise
        except BaseException as error:
            ending = _ending_of(running, error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                self._gone(running)
                raise
        else:
            ending = b'{"output":' + output + b"}"
        if probes.armed:
            probes.reach("task.ran")
        self._ended.append((running, ending))
        self._ending.ring()

    def _gone(self, running: _Running) -> None:
        if self._running.get(running.place) is running:
            del self._running[running.place]
            self._host.step_ended()
            self._bell.ring()

    # -- ends ----------------------------------------------------------------------------------------------------

    async def _keep_ending(self) -> None:
        while True:
            heed_cancel()
            await self._ending.wait(_LONGEST_WAIT_S)
            self._ending.clear()
            while self._ended:
                batch, self._ended = self._ended, []
                await self._end(sorted(batch, key=lambda end: (end[0].id.bytes, end[0].seq)))

    async def _end(self, batch: list[tuple[_Running, bytes]]) -> None:
        """Sends ends until they are there, or nobody wants them. What the server refuses becomes a failure."""
        while batch:
            heed_cancel()
            live = [(running, ending) for running, ending in batch if running.worker == self._host.worker]
            for running, _ in batch:
                if running.worker != self._host.worker:
                    self._gone(running)
            if not live:
                return
            batch = live
            try:
                async with borrow(self._pool) as conn:
                    await conn.execute(
                        self._sql["finish_tasks"],
                        (
                            self._host.worker, [r.id for r, _ in batch], [r.seq for r, _ in batch],
                            [r.attempt for r, _ in batch], [ending.decode() for _, ending in batch],
                        ),
                    )  # fmt: skip
            except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded) as error:
                if len(batch) > 1:
                    for one in batch:
                        await self._end([one])
                    return
                running = batch[0][0]
                refused = CodecError(f"{running.label}: the result cannot be stored: {server_said(error)}")
                batch = [(running, _ending_of(running, refused))]
            except (psycopg.Error, OSError) as error:
                if getattr(error, "sqlstate", None) == "PGD01":
                    logger.warning("%s tasks have ended too late: this worker was taken over", len(batch))
                    break
                logger.debug("ends of tasks wait for the server: %s", server_said(error))
                await asyncio.sleep(_AGAIN_S)
            else:
                break
        if batch and probes.armed:
            probes.reach("tasks.finished")
        for running, _ in batch:
            self._gone(running)

    # -- heartbeats ----------------------------------------------------------------------------------------------

    async def _keep_noting(self) -> None:
        """Keeps what heartbeats say, and stops what nobody waits for any more."""
        while True:
            heed_cancel()
            await asyncio.sleep(_NOTE_S)
            if self._running:
                try:
                    await self._note()
                except (psycopg.Error, OSError) as error:
                    logger.debug("heartbeats of tasks are not kept: %s", server_said(error))

    async def _note(self) -> None:
        host = self._host
        ours = sorted(self._running.values(), key=lambda running: (running.id.bytes, running.seq))
        self._stop([running for running in ours if running.worker != host.worker])
        ours = [running for running in ours if running.worker == host.worker]
        if not ours or host.fenced:
            return
        said = [None if running.python is None else running.python.said() for running in ours]
        async with borrow(self._pool) as conn:
            cursor = await conn.execute(
                self._sql["note_tasks"], (host.worker, [r.id for r in ours], [r.seq for r in ours], said)
            )
            gone = {(id, seq) for id, seq in await cursor.fetchall()}
        self._stop([running for running in ours if running.place in gone])

    def _stop(self, those: Iterable[_Running]) -> None:
        for running in those:
            task = running.task
            if self._running.get(running.place) is running and task is not None and not task.done():
                logger.info("%s was cancelled", running.label)
                task.cancel()

    # -- leaving -------------------------------------------------------------------------------------------------

    @property
    def load(self) -> list[dict[str, Any]]:
        """What runs, as `Engine.running_steps` says it."""
        now = time.perf_counter()
        return [
            {"id": running.key or str(running.id), "step": running.name, "attempt": running.attempt,
             "seconds": now - running.started}
            for running in self._running.values()
        ]  # fmt: skip

    async def close(self) -> None:
        """Stops what runs, and gives it back to others as the same attempt; an at_most_once one is lost for good."""
        if self._alarm is not None:
            self._alarm.cancel()
        left = [running.task for running in self._running.values()]
        await end_tasks(*left)
        if self._http is not None:
            await self._http.close()
        if left and not self._host.fenced:
            try:
                async with borrow(self._pool, 2.0) as conn:
                    await conn.execute(self._sql["return_tasks"], (self._host.worker,))
            except (psycopg.Error, OSError) as error:
                logger.debug("tasks are not given back: %s", server_said(error))


def _ending_of(running: _Running, error: BaseException) -> bytes:
    """The JSON of a failure, with what the retry policy has to know."""
    if isinstance(error, RequestFailed):
        return encode({"error": {"type": error.type, "message": error.message, **error.fields}})
    data: dict[str, Any] = msgspec.json.decode(encode_error(error, step=running.name, attempt=running.attempt))
    data.pop("args", None)  # which only Python would read
    data.pop("attrs", None)
    if isinstance(error, (CodecError, InvalidInput)):
        data["retryable"] = False
    if isinstance(error, PgDurableError) and error.hint:
        data["hint"] = error.hint
    if isinstance(error, RetryAfter):
        data["retry_in"] = max(error.seconds, 0.0)
    if isinstance(error, StepTimeout):
        data["timed_out"] = True
    if isinstance(error, psycopg.Error) and error.sqlstate:
        data["sqlstate"] = error.sqlstate
    return msgspec.json.encode({"error": data})
