"""This worker's place among the workers: its lease, and the taking over of those that died.

Every worker looks; there is no leader. A worker counts as gone when its beat has not moved while we watched, and
either the session that marks its presence is gone (killed: about two seconds) or its lease has run out (hung
machine, cut network; killed behind a pooler, where no session can mark its presence). What we did not watch ourselves
does not count: after an outage of the server everybody gets time to come back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import answers_within, borrow
from pgdurable._engine.tasks import heed_cancel
from pgdurable._engine.trouble import Troubles
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries, quote_schema

__all__ = ["Membership"]

logger = logging.getLogger("pgdurable.engine")

ABSENT_AFTER_S = 1.0
# While somebody is absent we look this often, so that a killed worker's instances go on within two seconds.
_LOOK_AGAIN_S = 0.25
EXPIRED_AFTER_S = 2.0
_RETIRE_S = 5.0
_AGAIN_AFTER_S = 0.05
_PLACE = "the lease is not renewed"


class Membership:
    """See the head of this file.

    Args:
        lease: seconds a worker may be silent before others take its instances over.
        pooled: whether sessions are others' too (see route.py): then none marks this worker's presence.
        queues: those it listens to; None: all.
        on_fenced: called when this worker itself was taken over.
        on_orphans: called when another worker has been declared dead by us.
        troubles: is told when the lease cannot be renewed.

    Attributes:
        joined: the database's time of joining. After a failover that lost it another worker may have the same id.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        schema: str,
        *,
        lease: float,
        name: str | None,
        pooled: bool = False,
        queues: list[str] | None = None,
        on_fenced: Callable[[], None],
        on_orphans: Callable[[], None],
        troubles: Troubles,
    ) -> None:
        self._pool = pool
        self._schema = quote_schema(schema)
        self._sql = named_queries("worker", schema)
        self.lease = lease
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.interval = min(1.0, lease / 4)
        self.worker = 0
        self._pooled = pooled
        self._queues = queues
        self.look: Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]] | None = None  # before each beat
        self.joined: datetime | None = None
        self._on_fenced = on_fenced
        self._on_orphans = on_orphans
        self._troubles = troubles
        self._seen: dict[int, tuple[int, float, float | None]] = {}
        self._last_beat = 0.0

    async def join(self, workflows: list[dict[str, str]]) -> int:
        """Enters a new incarnation and returns its id."""
        async with borrow(self._pool) as conn:
            cursor = await conn.execute(
                self._sql["join_worker"],
                (self.name, msgspec.json.encode(workflows).decode(), self.lease, not self._pooled, self._queues),
            )
            row = await cursor.fetchone()
            assert row is not None
            cursor = await conn.execute(self._sql["joined_at"], (row[0],))
            joined = await cursor.fetchone()
        self.worker = int(row[0])
        self.joined = joined[0] if joined is not None else None
        self._seen.clear()
        return self.worker

    def session_setup(self, first: str) -> list[str]:
        """What the journal's connection runs first: it marks our presence and hears notifications."""
        if self._pooled:
            return [first]
        return [
            first,
            f"select pg_try_advisory_lock_shared({self._schema}.lock_class(1), {self.worker})",
            f"listen pgdurable_{self._schema}",
        ]

    async def beat(self, stats: Mapping[str, Any] | None) -> None:
        """Renews the lease, looks at the others, takes over who is gone."""
        data = None if stats is None else msgspec.json.encode(stats).decode()
        longest = max(self.lease, 2.0)
        async with borrow(self._pool, longest) as conn:
            try:
                with answers_within(conn, longest):
                    if self.look is not None:
                        await self.look(conn)
                    cursor = await conn.execute(self._sql["beat"], (self.worker, self.lease, data))
                    others = await cursor.fetchall()
            except psycopg.Error as error:
                if error.sqlstate == "PGD01":
                    self._on_fenced()
                    return
                raise
            for other, seen_beat in self._gone(others):
                cursor = await conn.execute(self._sql["take_over"], (other, seen_beat, self.worker))
                row = await cursor.fetchone()
                if row is not None and row[0]:
                    logger.warning("worker %s is gone; its instances go on here", other)
                    self._on_orphans()

    def _gone(self, others: list[Any]) -> list[tuple[int, int]]:
        now = time.monotonic()
        if now - self._last_beat > 3 * self.interval:
            self._seen.clear()  # we were away ourselves, and saw nothing
        self._last_beat = now
        seen: dict[int, tuple[int, float, float | None]] = {}
        gone = []
        for other, beat, expired, absent in others:
            known = self._seen.get(other)
            since, absent_since = now, now if absent else None
            if known is not None and known[0] == beat:
                since = known[1]
                if absent and known[2] is not None:
                    absent_since = known[2]
            seen[other] = (beat, since, absent_since)
            if (absent_since is not None and now - absent_since >= ABSENT_AFTER_S) or (
                expired and now - since >= EXPIRED_AFTER_S
            ):
                gone.append((other, beat))
        self._seen = seen
        return gone

    async def mark_draining(self) -> None:
        """Says in `workers.state` that this worker takes nothing more. Tried until it is so, or cancelled."""
        while True:
            heed_cancel()
            try:
                async with borrow(self._pool) as conn:
                    cursor = await conn.execute(self._sql["mark_draining"], (self.worker,))
                    if await cursor.fetchone() is not None:
                        return
            except (psycopg.Error, OSError) as error:
                logger.debug("cannot say that worker %s drains: %s", self.worker, server_said(error))
            await asyncio.sleep(0.1)

    async def hint_others(self) -> None:
        """Tells the other workers that there is something to claim. Only a hint: they look by themselves, too."""
        try:
            async with borrow(self._pool) as conn:
                await conn.execute(self._sql["hint_others"])
        except (psycopg.Error, OSError) as error:
            logger.debug("cannot give the other workers a hint: %s", server_said(error))

    async def leave(self, longest: float) -> None:
        """Ends the incarnation: what it still owns is free at once. Takes so many seconds at most."""
        async with borrow(self._pool, longest) as conn:
            with answers_within(conn, longest):
                await conn.execute(self._sql["leave_worker"], (self.worker,))

    async def retire(self, worker: int, joined: datetime | None) -> None:
        """Ends an earlier incarnation of ours whose memory was dropped: what it owns is free at once."""
        async with borrow(self._pool) as conn:
            with answers_within(conn, _RETIRE_S):
                await conn.execute(self._sql["retire_worker"], (worker, joined))

    async def keep(self, stats: Callable[[], Mapping[str, Any]]) -> None:
        """Beats until cancelled. Trouble with the server is waited out."""
        failed = False
        while True:
            heed_cancel()
            try:
                await self.beat(stats())
                failed = False
                self._troubles.over(_PLACE)
            except (psycopg.Error, OSError) as error:
                if not failed:
                    failed = True  # a pooled connection had died, most likely: the next is new
                    await asyncio.sleep(_AGAIN_AFTER_S)
                    continue
                self._troubles.say(_PLACE, server_said(error))
            missed = any(absent_since is not None for _, _, absent_since in self._seen.values())
            await asyncio.sleep(_LOOK_AGAIN_S if missed else self.interval)
