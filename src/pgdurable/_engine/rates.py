"""Rate limits of steps, over all workers: turns are given out by the database, many at a time.

Never more than n attempts begin within any span of `seconds`. The database gives a turn at a time of its own clock that
lies between our asking and its answer; an attempt begins within a short grace of our asking, or not at all. So all that
begin within a span got their turns within that span and one grace, and for that length the database keeps the limit.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import borrow
from pgdurable._engine.tasks import heed_cancel
from pgdurable._engine.trouble import Troubles
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries

if TYPE_CHECKING:
    from pgdurable._engine.host import Host

__all__ = ["LocalRates", "Rates", "Turns"]

logger = logging.getLogger("pgdurable.steps")

_MOST_AT_ONCE = 200
# Turns taken while the server was slow come too late: then the next get more time.
_LEAST_GRACE_S, _MOST_GRACE_S = 0.02, 2.0
_PLACE = "steps wait for their rate"


class Turns(Protocol):
    """What gives out turns."""

    async def take(self, name: str, most: int, span: float) -> float: ...
    def close(self) -> None: ...


class LocalRates:
    """The same within one process, by its host's clock: for a simulation."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._free_at: dict[str, deque[int]] = {}

    async def take(self, name: str, most: int, span: float) -> float:
        """Waits for a turn, which keeps."""
        given = self._free_at.setdefault(name, deque())
        now_us = self._host.clock.now_us()
        while given and given[0] <= now_us:
            given.popleft()
        at_us = now_us if len(given) < most else given[-most]
        given.append(at_us + round(span * 1e6))
        if at_us > now_us:
            turn: asyncio.Future[None] = self._host.loop.create_future()
            timer = self._host.call_later((at_us - now_us) / 1e6, turn.set_result, None)
            try:
                await turn
            finally:
                timer.cancel()
        return 0.0

    def close(self) -> None:
        """Nothing is held."""


class _Queue:
    """Those who wait for a turn of one name."""

    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[float]] = deque()
        self.asking: asyncio.Task[None] | None = None
        self.most = 0
        self.span = 0.0


class Rates:
    """See the head of this file."""

    def __init__(
        self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], schema: str, troubles: Troubles
    ) -> None:
        self._pool = pool
        self._troubles = troubles
        self._sql = named_queries("worker", schema)["take_turns"]
        self._queues: dict[str, _Queue] = {}
        self._grace = _LEAST_GRACE_S

    async def take(self, name: str, most: int, span: float) -> float:
        """Waits for a turn; returns until when, by monotonic(), it can be used."""
        queue = self._queues.setdefault(name, _Queue())
        queue.most, queue.span = most, span
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[float] = loop.create_future()
        queue.waiting.append(turn)
        if queue.asking is None or queue.asking.done():
            queue.asking = loop.create_task(self._ask(name, queue))
        return await turn

    async def _ask(self, name: str, queue: _Queue) -> None:
        failed = False
        while True:
            heed_cancel()
            while queue.waiting and queue.waiting[0].done():
                queue.waiting.popleft()  # cancelled
            if not queue.waiting:
                return
            wanted = min(sum(not turn.done() for turn in queue.waiting), _MOST_AT_ONCE)
            try:
                async with borrow(self._pool) as conn:
                    grace = self._grace
                    asked = monotonic()
                    cursor = await conn.execute(self._sql, (name, queue.most, queue.span + grace, wanted))
                    row = await cursor.fetchone()
            except (psycopg.Error, OSError) as error:
                if failed:
                    self._troubles.say(_PLACE, server_said(error))
                failed = True
                await asyncio.sleep(0.2)
                continue
            if failed:
                failed = False
                self._troubles.over(_PLACE)
            given, wait = row or (0, None)
            took = monotonic() - asked
            self._grace = min(max(_LEAST_GRACE_S, 4.0 * took, 0.9 * self._grace), _MOST_GRACE_S)
            if took < grace:
                self._hand_out(queue, given, asked + grace)
            if given < wanted and wait is not None:
                # A little apart from the other workers, which wait for the same moment.
                await asyncio.sleep(max(wait, 0.0) + random.random() * 0.002)

    def _hand_out(self, queue: _Queue, given: int, until: float) -> None:
        while given and queue.waiting:
            turn = queue.waiting.popleft()
            if not turn.done():
                turn.set_result(until)
                given -= 1

    def close(self) -> None:
        for queue in self._queues.values():
            if queue.asking is not None:
                queue.asking.cancel()
            for turn in queue.waiting:
                turn.cancel()
            queue.waiting.clear()
