"""Waiting for the ends of instances, wherever they run."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import TypeAlias

from pgdurable._engine.database import Database
from pgdurable._engine.tasks import Bell, end_tasks, heed_cancel
from pgdurable.errors import ConnectionFailed, PgDurableError

__all__ = ["Outcome", "Outcomes"]

Outcome: TypeAlias = tuple[str, str | bytes | None, str | bytes | None]
"""Status, output and error, the last two as stored."""

_ASKED_AT_ONCE = 5000


class Outcomes:
    """Futures of outcomes. What nobody tells of is asked for, all in one query, ever more seldom while none comes.

    Args:
        runs_here: whether `tell` will be called for an instance, so that asking is not urgent.
    """

    def __init__(self, database: Database, runs_here: Callable[[bytes], bool]) -> None:
        self._database = database
        self._runs_here = runs_here
        self._waiting: dict[bytes, list[asyncio.Future[Outcome]]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._watch_now = Bell()

    def of(self, id: bytes) -> asyncio.Future[Outcome]:
        """The outcome once there is one. Whoever stops waiting calls `forget`."""
        self._database.check_open()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.setdefault(id, []).append(future)
        if not self._runs_here(id):  # of those that run here we are told
            self._watch_now.ring()
        if self._watcher is None or self._watcher.done():
            self._watcher = loop.create_task(self._watch())
        return future

    def forget(self, id: bytes, future: asyncio.Future[Outcome]) -> None:
        """Nobody waits for this future any more."""
        futures = self._waiting.get(id)
        if futures and future in futures:
            futures.remove(future)
            if not futures:
                del self._waiting[id]

    def tell(self, id: bytes, outcome: Outcome) -> None:
        """Answers all who wait for an instance."""
        for future in self._waiting.pop(id, ()):
            if not future.done():
                future.set_result(outcome)

    async def close(self) -> None:
        """Ends it. Who still waits is cancelled."""
        if self._watcher is not None:
            await end_tasks(self._watcher)
            self._watcher = None
        for futures in self._waiting.values():
            for future in futures:
                future.cancel()
        self._waiting.clear()

    def _refuse(self, asked: list[uuid.UUID], error: PgDurableError) -> None:
        """They cannot be asked for: whoever waits is told so, rather than waiting for ever."""
        for id in asked:
            for future in self._waiting.pop(id.bytes, ()):
                if not future.done():
                    future.set_exception(error)

    async def _watch(self) -> None:
        pause = 0.005
        encryption = self._database.encryption
        while self._waiting:
            heed_cancel()
            asked = [uuid.UUID(bytes=id) for id in self._waiting if not self._runs_here(id)]
            news = 0
            for first in range(0, len(asked), _ASKED_AT_ONCE):
                try:
                    rows = await self._database.rows("outcomes", (asked[first : first + _ASKED_AT_ONCE],))
                except ConnectionFailed:
                    rows = []
                except PgDurableError as refusal:
                    self._refuse(asked, refusal)
                    break
                for id, status, output, error in rows:
                    news += 1
                    if encryption is not None:
                        output = encryption.open(id, "output", output)
                        if status != "paused":  # whose reason is the engine's own
                            error = encryption.open(id, "error", error)
                    self.tell(id.bytes, (status, output, error))
            pause = 0.005 if news else min(pause * 1.5, 0.5)
            self._watch_now.clear()
            if await self._watch_now.wait(pause):
                pause = min(pause, 0.02)
                await asyncio.sleep(0.002)
