"""Retention: ended instances leave after a while, in small steps that nobody waits for.

A sweep walks along `instances` by id, which is time, and removes what has ended long enough ago; then it drops the
partitions of history whose instances are all gone. No index serves it, so ending an instance costs nothing for it. What
a sweep learns of a stretch of ids (nothing there can expire before tomorrow; or never) the next one need not look at
again, so it is cheap however many instances are kept.

One session sweeps at a time: each step takes an advisory lock if it is free, and leaves otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import borrow
from pgdurable._engine.tasks import heed_cancel, within
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries

__all__ = ["Sweeper", "Swept"]

logger = logging.getLogger("pgdurable.engine")

_FIRST = uuid.UUID(int=0)
_LOOKED_A_STEP = 1000
_ROWS_A_STEP = 5000
_LOOKED_A_MARK = 50_000
_LEAST_PAUSE_S = 0.02
# After a step that removed something, so many times its duration is left to others; after one that only looked, more.
_PAUSES = (4.0, 10.0)
_DETACH_S = 30.0
_TRIES = 500
_FIRST_S = 30.0
_LEAST_S, _MOST_S = 60.0, 3600.0
# Of the shortest retention: what is kept for minutes shall not stay for an hour.
_LATE = 0.1


@dataclass
class Swept:
    """What a sweep did.

    Attributes:
        looked, removed: instances.
        history: rows deleted by themselves.
        events: stray ones.
        partitions: dropped whole.
        complete: whether it came to its end; False when another session is at it.
        again: when there may be more to remove of what was looked at; None: nothing of that ever expires.
        kept: seconds that instances are kept at least; None: nothing is ever removed.
        undroppable: partitions that could not be detached just now, by a role that does not own them.
    """

    looked: int = 0
    removed: int = 0
    history: int = 0
    events: int = 0
    partitions: int = 0
    complete: bool = True
    again: datetime | None = None
    kept: float | None = None
    undroppable: int = 0


class _Busy(Exception):
    """Another session sweeps."""


class Sweeper:
    """See the head of this file.

    Attributes:
        removed: instances, by `run`.
        last: what its last sweep did.
    Args:
        hurry: without pauses, for somebody who waits for it; another session that sweeps is waited for, a while.
        on_step: told after each step: what was done so far, and the id it has come to of those up to `before`.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
        schema: str,
        *,
        hurry: bool = False,
        on_step: Callable[[Swept, uuid.UUID, uuid.UUID], None] = lambda swept, place, before: None,
    ) -> None:
        self._pool = pool
        self._sql = named_queries("upkeep", schema)
        self._hurry = hurry
        self._on_step = on_step
        self._mark: str | None = None
        # (end of a stretch of ids, when something in it may expire), ascending.
        self._stretches: list[tuple[uuid.UUID, datetime | None]] = []
        self._walked: set[tuple[uuid.UUID, uuid.UUID]] = set()
        self.removed = 0
        self.last: Swept | None = None

    async def run(self, worker: Callable[[], int], first: float = _FIRST_S) -> None:
        """Sweeps now and then until cancelled, as long as this is the worker to do it: the oldest of the living.

        Args:
            worker: this incarnation's id.
            first: seconds before the first sweep.
        """
        wait = first * random.uniform(0.5, 1.0)
        complained = False
        while True:
            heed_cancel()
            await asyncio.sleep(wait)
            wait = _LEAST_S
            try:
                if await self._rows("sweeps_here", (worker(),)) == [(True,)]:
                    swept = await self.sweep()
                    self.removed += swept.removed
                    self.last = swept
                    complained = False
                    if swept.complete:
                        most = _MOST_S if swept.kept is None else min(max(swept.kept * _LATE, _LEAST_S), _MOST_S)
                        wait = most
                        if swept.again is not None:
                            left = (swept.again - datetime.now(swept.again.tzinfo)).total_seconds()
                            wait = min(max(left, _LEAST_S), most)
            except (psycopg.Error, OSError) as error:
                if not complained:
                    logger.warning("cannot remove what ended long ago: %s", server_said(error))
                complained = True

    async def sweep(self, older_than: timedelta | None = None, *, dry: bool = False) -> Swept:
        """One sweep over all that may have to go. Raises psycopg's errors.

        Args:
            older_than: kept so long, instead of what the retentions say; what is kept for ever is.
            dry: only looks.
        """
        swept = Swept()
        before, usual, overdue, mark, now = await self._row("sweep_bounds", (older_than,))
        if mark != self._mark or older_than is not None:
            self._mark = mark
            self._stretches.clear()
        if before is None:
            return swept
        if before.int:
            swept.kept = max(now.timestamp() - (before.int >> 80) / 1000, 0.0)
        try:
            await self._instances(swept, before, now, older_than, dry)
            if not dry:
                await self._runs(swept)
                await self._events(swept)
                await self._partitions(swept)
                if older_than is not None:
                    await self._orphans(swept, await self._rows("partitions_below", (before,)), before)
                elif usual is not None:
                    parts = await self._rows("overdue_partitions", (overdue,))
                    await self._orphans(swept, [part for part in parts if part not in self._walked], before)
        except _Busy:
            swept.complete = False
        return swept

    # -- instances -------------------------------------------------------------------------------------------------

    async def _instances(
        self, swept: Swept, before: uuid.UUID, now: datetime, older_than: timedelta | None, dry: bool
    ) -> None:
        old, self._stretches = self._stretches, []
        place = _FIRST
        looked, again = 0, None
        for end, expires in [*old, (before, now)]:
            if expires is None or expires > now:
                if looked:
                    self._stretches.append((place, again))
                    looked, again = 0, None
                self._stretches.append((end, expires))
                place = max(place, end)
                continue
            while place < end:
                last, n, removed, least, gone, late = await self._step(
                    "sweep", (place, end, _LOOKED_A_STEP, older_than, dry)
                )
                swept.looked += n
                swept.removed += removed
                looked += n - removed
                again = _earlier(again, least)
                # The others' goes with their partition, if that can be dropped.
                gone += [id for id in late if any(lower <= id < upper for lower, upper in self._walked)]
                if gone and not dry:
                    await self._history(swept, gone)
                place = end if last is None or n < _LOOKED_A_STEP else _after(last)
                self._on_step(swept, place, before)
                if looked >= _LOOKED_A_MARK:
                    self._stretches.append((place, again))
                    looked, again = 0, None
        if looked:
            self._stretches.append((place, again))
        for _, expires in self._stretches:
            swept.again = _earlier(swept.again, expires)

    async def _history(self, swept: Swept, ids: list[uuid.UUID]) -> None:
        while True:
            (deleted,) = await self._step("sweep_history", (ids, _ROWS_A_STEP))
            swept.history += deleted
            if deleted < _ROWS_A_STEP:
                return

    async def _runs(self, swept: Swept) -> None:
        """What lies behind instances that have continued as new."""
        while True:
            (deleted,) = await self._step("sweep_runs", (_ROWS_A_STEP,))
            swept.history += deleted
            if deleted < _ROWS_A_STEP:
                return

    async def _events(self, swept: Swept) -> None:
        while True:
            (deleted,) = await self._step("sweep_events", (_ROWS_A_STEP,))
            swept.events += deleted
            if deleted < _ROWS_A_STEP:
                return

    # -- partitions of history ----------------------------------------------------------------------------------------

    async def _partitions(self, swept: Swept) -> None:
        """Drops those whose instances are all gone. Detaching waits for older transactions, and nobody for it."""
        spent = await self._rows("spent_partitions", None)
        try:
            for name, detach, finalize in spent:
                logger.info("partition %s of history is dropped: none of its instances is there any more", name)
                async with borrow(self._pool) as conn:
                    try:
                        await within(_DETACH_S, conn.execute(finalize or detach))
                    except (psycopg.errors.FeatureNotSupported, psycopg.errors.InsufficientPrivilege):
                        # Citus, or the owner is another role.
                        cursor = await conn.execute(self._sql["detach_spent"])
                        if await cursor.fetchone() == (None,):
                            swept.undroppable = len(spent)
                        break
            # What a sweep was kept from dropping earlier as well.
            (dropped,) = await self._row("drop_detached", None)
            swept.partitions += dropped
        except (psycopg.errors.LockNotAvailable, psycopg.errors.ObjectNotInPrerequisiteState, asyncio.TimeoutError):
            logger.info("a partition of history is not dropped yet: a transaction is open that is older")

    async def _orphans(self, swept: Swept, parts: list[tuple[uuid.UUID, uuid.UUID]], before: uuid.UUID) -> None:
        """Deletes history without an instance where something keeps the partition from being dropped."""
        for part in parts:
            place, end = part
            while True:
                last, looked, deleted = await self._step("sweep_orphans", (place, end, _LOOKED_A_STEP, _ROWS_A_STEP))
                swept.history += deleted
                if looked == 0:
                    break
                place = _after(last) if last is not None else place
                self._on_step(swept, place, before)
            self._walked.add(part)

    # -- one step ----------------------------------------------------------------------------------------------------

    async def _step(self, query: str, params: Any) -> Any:
        began = time.monotonic()
        tries = _TRIES if self._hurry else 1
        while True:
            rows = await self._rows(query, params)
            if rows and rows[0][-1] is not None:
                break
            tries -= 1
            if tries == 0:
                raise _Busy
            await asyncio.sleep(_LEAST_PAUSE_S)
        row = rows[0]
        if not self._hurry:
            idle = query == "sweep" and row[2] == 0
            await asyncio.sleep(max(_LEAST_PAUSE_S, (time.monotonic() - began) * _PAUSES[idle]))
        return row

    async def _row(self, query: str, params: Any) -> Any:
        (row,) = await self._rows(query, params)
        return row

    async def _rows(self, query: str, params: Any) -> list[Any]:
        async with borrow(self._pool) as conn:
            cursor = await conn.execute(self._sql[query], params)
            return await cursor.fetchall()


def _after(id: uuid.UUID) -> uuid.UUID:
    return uuid.UUID(int=min(id.int + 1, (1 << 128) - 1))


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return one if other is None else other if one is None else min(one, other)
