"""What a worker does for the tables themselves: partitions of history are made ahead of time, and it is
looked at whether dead rows are removed.

Every worker looks; there is no leader. Whoever gets an advisory lock does the work, and the hot path waits for none of
it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import borrow
from pgdurable._engine.clock import micros
from pgdurable._engine.tasks import heed_cancel
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries
from pgdurable.errors import PgDurableError

__all__ = ["Upkeep"]

logger = logging.getLogger("pgdurable.engine")

_EVERY_S = 3600.0
_SOON_S = 60.0
# Another worker makes partitions just now: it is waited for so long.
_PATIENCE_S = 20.0
_ENOUGH = timedelta(hours=1)
_LOOK_EVERY_S = 30.0
_HELD_LONG_S, _HELD_LONG_XIDS = 600.0, 1_000_000


class Upkeep:
    """See the head of this file.

    Attributes:
        aside_over: payloads of more bytes are kept apart, as the settings say; `on_aside` is told.
        end: the least id for which no partition is known; ids below have theirs.
        held_back_s, held_back_xids: for how long, and for how many transactions, somebody has kept dead rows from being
            removed; None: nobody does (or PostgreSQL does not tell how long).
        dead_rows: in the tables that change.
        deaf_queues: those in which something waits and to which no living worker listens.
    """

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]], schema: str) -> None:
        self._pool = pool
        self._schema = schema
        self._sql = named_queries("upkeep", schema)
        self._until: datetime | None = None
        self.end = b""
        self.aside_over = 0
        self.on_aside: Callable[[int], None] = lambda over: None
        self._wake = asyncio.Event()
        self.held_back_s: float | None = None
        self.held_back_xids: int | None = None
        self.dead_rows: int | None = None
        self.deaf_queues: list[str] = []
        self._held_long = False

    # -- partitions ------------------------------------------------------------------------------------------------

    async def make_partitions(self) -> None:
        """Partitions for the ids of the next weeks. Raises psycopg's errors."""
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            async with borrow(self._pool) as conn:
                try:
                    cursor = await conn.execute(self._sql["make_partitions"])
                except psycopg.errors.LockNotAvailable:
                    cursor = await conn.execute(self._sql["partitions_until"])
                row = await cursor.fetchone()
            assert row is not None
            until, now, self.aside_over = row
            self.on_aside(self.aside_over)
            if until - now >= _ENOUGH:
                self._until = until
                self.end = (micros(until) // 1000).to_bytes(6, "big") + bytes(10)
                return
            if time.monotonic() > give_up:
                raise psycopg.errors.LockNotAvailable(
                    f"the partitions of {self._schema}.history reach until {until}, and another session keeps new ones "
                    "from being attached"
                )
            await asyncio.sleep(0.1)

    def check(self, id: bytes) -> bytes:
        """The id of a new instance, if its history has a partition. Raises PgDurableError."""
        if id < self.end:
            return id
        self._wake.set()
        at = datetime.fromtimestamp(int.from_bytes(id[:6], "big") / 1000, timezone.utc)
        raise PgDurableError(
            f"nothing can be started at {at:%Y-%m-%d %H:%M} UTC, which is what the database's clock says",
            detail=f"The partitions of {self._schema}.history reach until {self._until}; workers make them ahead.",
            hint="Is the database's clock right? If it is, try again in a moment: partitions are being made now.",
        )

    async def cover(self, conn: psycopg.AsyncConnection[Any], worker: int, rows: list[Any]) -> list[Any]:
        """For claimed instances, in order of id: the same, without those whose history can have no partition.

        Ids are made by the database's clock, so none should lie ahead; some other program's may. Such an instance gets
        a partition of its own time, or where there are too many of these it is paused.
        """
        fine = []
        for row in rows:
            if row[0].bytes >= self.end and not await self._covers(conn, worker, row[0]):
                continue
            fine.append(row)
        return fine

    async def _covers(self, conn: psycopg.AsyncConnection[Any], worker: int, id: uuid.UUID) -> bool:
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            cursor = await conn.execute(self._sql["partition_of"], (id, id))
            if await cursor.fetchone() is not None:
                return True
            try:
                await conn.execute(self._sql["make_partition_of"], (id,))
            except psycopg.errors.LockNotAvailable:
                pass
            except psycopg.Error as error:
                if error.sqlstate != "PGD07":
                    raise
                logger.error("instance %s is paused: %s", id, error)
                diag = error.diag
                await conn.execute(self._sql["pause_uncovered"], (diag.message_primary, diag.message_hint, id, worker))
                return False
            if time.monotonic() > give_up:
                raise psycopg.errors.LockNotAvailable(f"no partition of history could be made for instance {id}")
            await asyncio.sleep(0.02)

    # -- what others do to the tables ---------------------------------------------------------------------------------

    async def look_at_vacuum(self) -> None:
        """Takes in who keeps dead rows from being removed, how many there are, and which queues nobody hears.

        Raises psycopg's errors.
        """
        async with self._pool.connection() as conn:
            cursor = await conn.execute(self._sql["vacuum_state"])
            row = await cursor.fetchone()
        assert row is not None
        self.held_back_s, self.held_back_xids, holder, self.dead_rows, deaf = row
        for name in set(deaf) - set(self.deaf_queues):
            logger.warning("something waits in queue %s, to which no living worker listens", name)
        self.deaf_queues = sorted(deaf)
        long = (self.held_back_s or 0.0) >= _HELD_LONG_S or (self.held_back_xids or 0) >= _HELD_LONG_XIDS
        if long and not self._held_long:
            logger.warning(
                "%s keeps dead rows from being removed for %s and %s transactions; see `pgdurable doctor`",
                holder, "?" if self.held_back_s is None else f"{self.held_back_s:.0f} s", self.held_back_xids,
            )  # fmt: skip
        self._held_long = long

    # -- as a task ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps at it until cancelled. Trouble is waited out."""
        due = time.monotonic() + _EVERY_S * random.uniform(0.5, 1.0)  # not all workers at once
        while True:
            heed_cancel()
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), min(_LOOK_EVERY_S, max(due - time.monotonic(), 0.0)))
            except asyncio.TimeoutError:
                pass
            try:
                if self._wake.is_set() or time.monotonic() >= due:
                    due = time.monotonic() + _SOON_S
                    await self.make_partitions()
                    due = time.monotonic() + _EVERY_S
                await self.look_at_vacuum()
            except (psycopg.Error, OSError) as error:
                logger.warning("cannot see to the tables: %s", server_said(error))
