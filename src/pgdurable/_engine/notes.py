"""What the database is told of attempts that take long: that they run, their heartbeats and progress.

Once a second, in one statement, for those that have run for a second or have said something since. Fast steps are never
looked at twice, and cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import borrow
from pgdurable._engine.attempts import Extra, need_extra, sealed_details
from pgdurable._engine.tasks import heed_cancel
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries

if TYPE_CHECKING:
    from pgdurable._engine.host import Host
    from pgdurable._engine.steps import StepRun

__all__ = ["Notes"]

logger = logging.getLogger("pgdurable.steps")

_EVERY_S = 1.0
_LONG_S = 1.0
_MOST_AT_ONCE = 5000
_TIDY_EVERY_S = 60.0
_NO_EXTRA = Extra()

Place = tuple[bytes, int]


class Notes:
    """See the head of this file."""

    def __init__(self, host: Host, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], schema: str) -> None:
        self._host = host
        self._pool = pool
        self._sql = named_queries("worker", schema)
        self._noted: dict[Place, tuple[StepRun, int]] = {}
        self._tidied = monotonic()

    async def run(self) -> None:
        """Tells what there is to tell, until cancelled. Trouble with the server is waited out by others."""
        while True:
            heed_cancel()
            await asyncio.sleep(_EVERY_S)
            try:
                await self.tell()
            except (psycopg.Error, OSError) as error:
                logger.debug("long attempts could not be noted: %s", server_said(error))

    async def tell(self) -> None:
        """One look."""
        host = self._host
        if host.fenced:
            self._noted.clear()
            return
        gone = [place for place, (run, attempt) in self._noted.items() if run.task is None or run.attempt != attempt]
        for place in gone:
            del self._noted[place]
        found = self._find() if host.steps_running else []
        while found or gone:
            part, found = found[:_MOST_AT_ONCE], found[_MOST_AT_ONCE:]
            await self._send(part, sorted(set(gone)))
            gone = []
        if monotonic() - self._tidied > _TIDY_EVERY_S:
            self._tidied = monotonic()
            async with borrow(self._pool) as conn:
                await conn.execute(self._sql["forget_attempts"])

    def _find(self) -> list[StepRun]:
        found = []
        now = perf_counter()
        for hosted in self._host.instances.values():
            if hosted.steps:
                for run in hosted.steps.values():
                    if run.task is None or run.entering is not None or run.timed_out:
                        continue
                    told = (hosted.id, run.command.seq) in self._noted
                    if (run.extra is not None and run.extra.changed) or (not told and now - run.started >= _LONG_S):
                        found.append(run)
        found.sort(key=lambda run: (run.hosted.id, run.command.seq))
        return found

    async def _send(self, runs: list[StepRun], gone: list[Place]) -> None:
        now = perf_counter()
        rows = []
        for run in runs:
            extra = run.extra
            if extra is not None:
                extra.changed = False
            else:
                extra = _NO_EXTRA
            details = sealed_details(run)
            ran = max(now - run.started, 0.0)
            rows.append((
                UUID(bytes=run.hosted.id), run.command.seq, run.attempt, run.command.name, ran,
                now - extra.beat if extra.beat > run.started else ran, *(extra.progress or (None, None)),
                None if details is None else details.decode(),
            ))  # fmt: skip
        columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(9)]
        places = [(run.hosted.id, run.command.seq) for run in runs]
        for place, run in zip(places, runs, strict=True):
            self._noted[place] = (run, run.attempt)
        left = [place for place in gone if place not in self._noted]
        try:
            async with borrow(self._pool) as conn:
                await conn.execute(
                    self._sql["note_attempts"],
                    (self._host.worker, *columns, [UUID(bytes=id) for id, _ in left], [seq for _, seq in left]),
                )
        except BaseException:
            for run in runs:  # told again at the next look
                need_extra(run).changed = True
            raise
