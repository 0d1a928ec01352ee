"""Finds work for this worker: instances that are due or orphaned, events for those it holds.

A notification is only a hint to look now; looking every `interval` seconds alone finds the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine import probes
from pgdurable._engine.host import Host, micros
from pgdurable._engine.tasks import Bell
from pgdurable._store.sql import named_queries

__all__ = ["Poller"]

logger = logging.getLogger("pgdurable.engine")

_CLAIM_AT_ONCE = 1000
_LOAD_AT_ONCE = 500
_SHORTEST_GAP_S = 0.005
_STRAY_AFTER_S = 2.0
_TIDY_EVERY_S = 30.0


class Poller:
    """See the head of this file.

    Args:
        room: how many more instances this process takes in.
        interval: seconds between two looks when nothing hints.
    """

    def __init__(
        self,
        host: Host,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        schema: str,
        *,
        room: Callable[[], int],
        interval: float,
    ) -> None:
        self._host = host
        self._pool = pool
        self._sql = named_queries("worker", schema)
        self._room = room
        self._interval = interval
        self._hint = Bell()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        definitions = list(host.registry)
        self._names = [d.name for d in definitions]
        self._versions = [d.version for d in definitions]
        self._current = [host.registry.is_current(d) for d in definitions]
        self._tidied = time.monotonic()
        self._unsure = False
        self._skipped = False
        self._strays: tuple[float, set[Any]] | None = None
        self.polls = 0

    def hint(self) -> None:
        """Looks as soon as possible."""
        self._hint.ring()

    def hint_at(self, wake_at_us: int | None) -> None:
        """Looks again when the database's clock has reached this time."""
        if wake_at_us is None:
            return
        loop = self._host.loop
        at = loop.time() + max((wake_at_us - self._host.clock.now_us()) / 1e6, 0.0)
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = loop.call_later(max(at - loop.time(), 0.0), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._hint.ring()

    async def run(self) -> None:
        """Polls until cancelled. Trouble with the server is waited out."""
        complained = False
        while True:
            self._hint.clear()
            try:
                more = await self.poll()
                complained = False
            except (psycopg.Error, OSError) as error:
                if getattr(error, "sqlstate", None) == "PGD01":
                    self._host.on_fenced()
                elif not complained:
                    logger.warning("cannot look for work: %s", error)
                    complained = True
                more = False
            await asyncio.sleep(_SHORTEST_GAP_S)
            if not more:
                await self._hint.wait(self._interval)

    async def poll(self) -> bool:
        """One look. Returns whether there may be more at once."""
        self.polls += 1
        host = self._host
        if host.draining or host.fenced:
            return False
        room = min(self._room(), _CLAIM_AT_ONCE)
        worker = host.worker
        async with self._pool.connection() as conn:
            rows: list[Any] = []
            if self._unsure:
                await self._take_up_strays(conn, worker)
            self._unsure = True  # until everything claimed is known to be here
            if room > 0 and self._names:
                cursor = await conn.execute(
                    self._sql["claim"], (worker, self._names, self._versions, self._current, room)
                )
                rows = await cursor.fetchall()
                if rows and probes.armed:
                    probes.reach("claim.returned")
                for first in range(0, len(rows), _LOAD_AT_ONCE):
                    await self._take_in(conn, worker, rows[first : first + _LOAD_AT_ONCE])
            self._unsure = self._strays is not None or self._skipped
            self._skipped = False
            if host.instances:
                await self._events(conn)
            if time.monotonic() - self._tidied > _TIDY_EVERY_S:
                self._tidied = time.monotonic()
                await conn.execute(self._sql["drop_stale_events"])
            if not rows and self._names:
                cursor = await conn.execute(self._sql["next_due"], (self._names,))
                row = await cursor.fetchone()
                if row is not None and row[0] is not None and row[0] < 60 and host.clock.now_us():
                    self.hint_at(host.clock.now_us() + int(max(row[0], 0.001) * 1e6))
        return room > 0 and len(rows) == room

    async def _take_up_strays(self, conn: psycopg.AsyncConnection[Any], worker: int) -> None:
        """Finds instances that are this worker's without its knowing: their claim was committed, its answer lost.

        What is not here now may be a start under way, so only what is still not here some time later counts.
        """
        host = self._host
        cursor = await conn.execute(self._sql["owned"], (worker,))
        strays = {row[0] for row in await cursor.fetchall() if row[0].bytes not in host.instances}
        now = time.monotonic()
        if self._strays is None:
            self._strays = (now, strays) if strays else None
            host.loop.call_later(_STRAY_AFTER_S + 0.01, self.hint)
        elif now - self._strays[0] >= _STRAY_AFTER_S:
            lost = list(self._strays[1] & strays)
            for first in range(0, len(lost), _LOAD_AT_ONCE):
                cursor = await conn.execute(self._sql["take_up"], (lost[first : first + _LOAD_AT_ONCE], worker))
                await self._take_in(conn, worker, await cursor.fetchall())
            self._strays = None

    async def _take_in(self, conn: psycopg.AsyncConnection[Any], worker: int, rows: list[Any]) -> None:
        cursor = await conn.execute(self._sql["load_history"], ([row[0] for row in rows],))
        history: dict[Any, list[Any]] = defaultdict(list)
        for entry in await cursor.fetchall():
            history[entry[0]].append(entry)
        breath = time.monotonic()
        for id, workflow, version, input, key, started_at, *_ in rows:
            if self._host.fenced or self._host.worker != worker:
                return  # claimed by an incarnation that was taken over meanwhile: they are somebody else's
            if id.bytes in self._host.instances and not await self._has_left(id.bytes):
                self._skipped = True  # it is looked for as a stray
                continue
            definition = self._host.registry.get(workflow, version)
            await self._host.resume(id.bytes, key, definition, input, micros(started_at), history.pop(id, []))
            if time.monotonic() - breath > 0.005:
                await asyncio.sleep(0)
                breath = time.monotonic()

    async def _has_left(self, id: bytes) -> bool:
        """Whether an instance that was just parked, and claimed again at once, has left memory meanwhile.

        Its claim can overtake the answer to its parking, which comes on another connection.
        """
        for _ in range(50):
            if id not in self._host.instances:
                return True
            await asyncio.sleep(0.001)
        return False

    async def _events(self, conn: psycopg.AsyncConnection[Any]) -> None:
        cursor = await conn.execute(self._sql["owned_events"], (self._host.worker,))
        for seq, id, kind, name, payload in await cursor.fetchall():
            self._host.take_event(seq, id.bytes, kind, name, payload)
