"""Pumps: connections in which the database runs workflows in SQL, each in `call work(...)`.

A pump whose call has returned has nothing to do, and is in no call until there is: in one it is a worker, which is
entered and left in tables. Whether there is something is asked once a second and at every notification
(`pump_due`), and then one pump is woken after the other, for as long as there is.

The supervisor, a connection of its own, stops statements that run over their step's timeout or whose instance was
cancelled (`stop_overdue`), and asks pumps that are to stop to leave at their next commit. All of it is plain SQL: psql
or pg_cron may be a pump as well.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import borrow
from pgdurable._engine.route import Route
from pgdurable._engine.tasks import Bell, end_tasks, heed_cancel
from pgdurable._engine.trouble import Troubles
from pgdurable._secret import server_said
from pgdurable._store.sql import named_queries

__all__ = ["Pumps"]

logger = logging.getLogger("pgdurable.engine")

# A call ends after so long at the latest, between two steps: so long an unfriendly stop may take.
_CALL = "10 seconds"
_OVERDUE_EVERY_S = 0.2
# While there is more to do: how soon another pump is woken.
_NEXT_PUMP_S = 0.01
# Calls that return at once, and still something is due, were not able to do it: it is tried ever more seldom. (That a
# pump has left is a notification too, so hints do not count.)
_IN_VAIN_S, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.005, 0.5
_RECONNECT_S, _RECONNECT_MOST_S = 0.1, 5.0
_LEAVE_EVERY_S = 0.2
_KILL_S = 2.0
_PLACE, _WATCH, _DUE = "a pump does not run", "pumps are not watched", "pumps are not woken"


class _Pump:
    """One connection."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.conn: psycopg.AsyncConnection[Any] | None = None
        self.calling = False
        self.woken = False

    @property
    def pid(self) -> int | None:
        return self.conn.info.backend_pid if self.calling and self.conn is not None and not self.conn.closed else None


class Pumps:
    """See the head of this file.

    Args:
        pool: for the supervisor, of one connection.
        most: how many pumps.
        queues: those they take instances of; None: all.
        interval: seconds between two looks when nothing hints.
        route: how the server is reached. Behind a pooler nothing is set in a session.
        troubles: is told when a pump cannot run.
    """

    def __init__(
        self, dsn: str, pool: AsyncConnectionPool[Any], schema: str, most: int, queues: list[str] | None,
        interval: float, route: Route, troubles: Troubles,
    ) -> None:  # fmt: skip
        self._dsn = dsn
        self._pool = pool
        self._sql = named_queries("tasks", schema)
        self._queues = queues
        self._interval = interval
        self._route = route
        self._troubles = troubles
        self._pumps = [_Pump() for _ in range(most)]
        self._bell = Bell()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._pause = _FIRST_PAUSE_S
        self._not_before = 0.0

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(pump)) for pump in self._pumps]
        self._tasks += [loop.create_task(self._wake()), loop.create_task(self._watch())]

    def ring(self) -> None:
        """Something may be due: looks as soon as possible."""
        self._bell.ring()

    @property
    def running(self) -> int:
        """How many are in a call."""
        return sum(pump.calling for pump in self._pumps)

    def _pids(self) -> list[int]:
        return [pid for pump in self._pumps if (pid := pump.pid) is not None]

    # -- pumps ---------------------------------------------------------------------------------------------------

    async def _run(self, pump: _Pump) -> None:
        pause = _RECONNECT_S
        while not self._stopping:
            heed_cancel()
            try:
                if pump.conn is None or pump.conn.closed:
                    pump.conn = await self._connect()
                await pump.bell.wait(60.0)
                pump.bell.clear()
                if self._stopping or not pump.woken:
                    continue
                await self._call(pump)
                pause = _RECONNECT_S
                self._troubles.over(_PLACE)
            except (psycopg.Error, OSError) as error:
                if not self._stopping:
                    self._troubles.say(_PLACE, server_said(error))
                pump.woken = False
                await self._hang_up(pump)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, _RECONNECT_MOST_S)
                self._bell.ring()
        await self._hang_up(pump)

    async def _call(self, pump: _Pump) -> None:
        assert pump.conn is not None
        began = time.monotonic()
        pump.calling = True
        try:
            await pump.conn.execute(self._sql["work"], (_CALL, self._queues))
        finally:
            pump.calling = pump.woken = False
        now = time.monotonic()
        if now - began < _IN_VAIN_S:
            self._not_before = now + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE_S)
        self._bell.ring()  # there may be more

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        conn = await psycopg.AsyncConnection.connect(self._dsn, **self._route.options)
        if not self._route.pooled:
            await conn.execute(self._sql["pump_session"])
        return conn

    async def _hang_up(self, pump: _Pump) -> None:
        conn, pump.conn = pump.conn, None
        if conn is not None:
            await conn.close()

    # -- the supervisor ------------------------------------------------------------------------------------------

    async def _wake(self) -> None:
        """Wakes pumps while there is something to do."""
        while not self._stopping:
            heed_cancel()
            self._bell.clear()
            wait = self._interval
            try:
                if any(not pump.woken for pump in self._pumps):
                    async with borrow(self._pool) as conn:
                        row = await (await conn.execute(self._sql["pump_due"], (self._queues,))).fetchone()
                    due = None if row is None else row[0]
                    if due is not None and due <= 0.0:
                        wait = self._wake_one()
                    else:
                        self._pause, self._not_before = _FIRST_PAUSE_S, 0.0
                        if due is not None:
                            wait = min(wait, max(due, 0.001))
                self._troubles.over(_DUE)
            except (psycopg.Error, OSError) as error:
                self._troubles.say(_DUE, server_said(error))
            await self._bell.wait(wait)

    def _wake_one(self) -> float:
        """Returns in how many seconds to look again."""
        early = self._not_before - time.monotonic()
        if early > 0:
            return early
        for pump in self._pumps:
            if not pump.woken and pump.conn is not None:
                pump.woken = True
                pump.bell.ring()
                return _NEXT_PUMP_S
        return self._interval

    async def _watch(self) -> None:
        """Ends what is overdue, and what nobody waits for."""
        freed = 0.0
        while True:
            heed_cancel()
            try:
                async with borrow(self._pool) as conn:
                    await conn.execute(self._sql["stop_overdue"])
                    if time.monotonic() - freed > 2.0:
                        freed = time.monotonic()
                        await conn.execute(self._sql["free_tasks"])
                self._troubles.over(_WATCH)
            except (psycopg.Error, OSError) as error:
                self._troubles.say(_WATCH, server_said(error))
            await asyncio.sleep(_OVERDUE_EVERY_S if self.running else self._interval)

    # -- leaving -------------------------------------------------------------------------------------------------

    async def stop(self, longest: float | None) -> bool:
        """Pumps get so many seconds (None: as long as it takes) to end what they run; then they are cut off.

        Returns whether all ended by themselves. What is cut off is undone, and done again by another pump.
        """
        self._stopping = True
        self._bell.ring()
        for pump in self._pumps:
            pump.bell.ring()
        running = {task for task in self._tasks[: len(self._pumps)] if not task.done()}
        until = None if longest is None else time.monotonic() + longest
        while running and (until is None or time.monotonic() < until):
            pids = self._pids()
            await self._ask("drain_pumps", pids)
            left = _LEAVE_EVERY_S if until is None else min(max(until - time.monotonic(), 0.0), _LEAVE_EVERY_S)
            _, running = await asyncio.wait(running, timeout=left)
        if running:
            logger.warning("%s pumps are cut off; what they ran is done again elsewhere", self.running)
            await self._ask("end_pumps", self._pids())
            await asyncio.wait(running, timeout=_KILL_S)
        await end_tasks(*self._tasks)
        for pump in self._pumps:
            await self._hang_up(pump)
        return not running

    async def _ask(self, query: str, pids: list[int]) -> None:
        if not pids or self._route.pooled:  # a pooler tells process ids of its own
            return
        try:
            async with borrow(self._pool, 1.0) as conn:
                await conn.execute(self._sql[query], (pids,))
        except (psycopg.Error, OSError) as error:
            logger.debug("pumps are not told to stop: %s", server_said(error))
