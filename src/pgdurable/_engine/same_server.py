"""Whether a connection leads to the server that a worker's memory stands for.

What an engine holds in memory follows from what the server has acknowledged. After a failover that loses commits (an
asynchronous standby was promoted, an older state restored) the new server does not know some of it, and going on from
memory would leave histories with gaps. So each new connection says which run of which server it leads to
(`pg_postmaster_start_time`, which everybody may read and no two servers share), and while that is not the one that the
memory was last held against, it is not used: the journal reconnects first, and compares (memory.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from pgdurable._engine.answers import answer_s, answers_within
from pgdurable._store.sql import named_queries

__all__ = ["OtherServer", "SameServer"]

# The pools would try a refused connection again after a second at the soonest: so they wait a little.
_COMPARED_WITHIN_S = 5.0
_LOOK_EVERY_S = 0.02


class OtherServer(psycopg.OperationalError):
    """The connection leads to another server, or another run of it, than the worker's memory stands for."""


class SameServer:
    """See the head of this file.

    Attributes:
        on_other: called, in any thread, when a connection leads elsewhere.
        known: the server the memory stands for; None: there is nothing in memory.
    """

    def __init__(self, schema: str, *, pooled: bool = False) -> None:
        sql = named_queries("session", schema)
        # Behind a pooler sessions are others' too: nothing is set in them.
        self._own = sql["any_session"] if pooled else sql["own_session"]
        self._step = sql["any_session"] if pooled else sql["step_session"]
        self.on_other: Callable[[], object] = lambda: None
        self.known: str | None = None

    @property
    def setup(self) -> str:
        """What a session of the engine's own runs first; gives the server."""
        return self._own.replace("@statement_timeout_ms@", str(int(answer_s() * 1000)))

    def _waits(self, found: str) -> Iterator[float]:
        """Seconds between two looks, until that is the server known. Raises OtherServer when it takes too long."""
        until = time.monotonic() + _COMPARED_WITHIN_S
        while self.known is not None and found != self.known:
            self.on_other()
            if time.monotonic() > until:
                raise OtherServer("another server answers than before; it is compared with what is in memory first")
            yield _LOOK_EVERY_S

    async def look(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Behind a pooler connections outlive their server: asks which one this leads to now."""
        row = await (await conn.execute(self._own)).fetchone()
        if row is not None and self.known is not None and row[0] != self.known:
            self.on_other()

    async def configure(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """For a pool of the engine's own sessions."""
        await self._configure(conn, self.setup)

    async def configure_step(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """For the pool of `async def` transaction steps."""
        await self._configure(conn, self._step)

    async def _configure(self, conn: psycopg.AsyncConnection[Any], setup: str) -> None:
        try:
            with answers_within(conn, answer_s()):
                row = await (await conn.execute(setup)).fetchone()
            assert row is not None
            for wait in self._waits(row[0]):
                await asyncio.sleep(wait)
        except BaseException:
            await conn.close()
            raise

    def configure_blocking(self, conn: psycopg.Connection[Any]) -> None:
        """For the pool of `def` transaction steps."""
        try:
            row = conn.execute(self._step).fetchone()
            assert row is not None
            for wait in self._waits(row[0]):
                time.sleep(wait)
        except BaseException:
            conn.close()
            raise
