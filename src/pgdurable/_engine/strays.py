"""Finds instances that are this worker's without its knowing: their claim was committed, its answer lost.

What is not in memory may be a start under way, so only what is still not there some time later counts. And a claim
whose connection broke may be under way in the server still: it waits for a synchronous standby, or for the disk, and is
committed after a look that has not found it. So doubt lasts, and is never quite gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg

from pgdurable._engine.host import Host
from pgdurable._engine.intake import Intake
from pgdurable._store.sql import named_queries

__all__ = ["Strays"]

_STRAY_AFTER_S = 2.0
_DOUBT_S = 10.0
_LOOK_IN_DOUBT_S = 1.0
_LOOK_ANYWAY_S = 30.0


class Strays:
    """See the head of this file.

    Args:
        hint: called when it is time to look.
    Attributes:
        unsure: something that this worker owns may not be known here.
    """

    def __init__(self, host: Host, schema: str, intake: Intake, hint: Callable[[], None]) -> None:
        self._host = host
        self._owned = named_queries("worker", schema)["owned"]
        self._intake = intake
        self._hint = hint
        self.unsure = False
        self._seen: tuple[float, set[Any]] | None = None
        self._doubt_until = 0.0
        self._look_at = time.monotonic() + _LOOK_ANYWAY_S

    def settle(self) -> None:
        """Everything claimed is known to be here, but for what was seen as a stray or passed over."""
        self.unsure = self._seen is not None or self._intake.skipped
        self._intake.skipped = False

    async def look(self, conn: psycopg.AsyncConnection[Any], worker: int) -> None:
        """Asks what this worker owns, if it is time to; takes up what has been missing for long enough."""
        now = time.monotonic()
        if not self.unsure and now < self._look_at:
            return
        if self._seen is not None and now - self._seen[0] < _STRAY_AFTER_S:
            return  # under load there are always starts under way: not to be asked at every hint for all it holds
        loop = self._host.loop
        if self.unsure and self._seen is None:
            self._doubt_until = time.monotonic() + _DOUBT_S
        cursor = await conn.execute(self._owned, (worker,))
        strays = {row[0] for row in await cursor.fetchall() if row[0].bytes not in self._host.instances}
        now = time.monotonic()
        if now < self._doubt_until:
            self._look_at = now + _LOOK_IN_DOUBT_S
            loop.call_later(_LOOK_IN_DOUBT_S + 0.01, self._hint)
        else:
            self._look_at = now + _LOOK_ANYWAY_S
        if self._seen is None:
            self._seen = (now, strays) if strays else None
            loop.call_later(_STRAY_AFTER_S + 0.01, self._hint)
        else:
            await self._intake.take_up(conn, worker, list(self._seen[1] & strays))
            self._seen = None
