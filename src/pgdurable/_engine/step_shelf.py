"""Connections of transaction steps between two steps.

A pool looks after connections in tasks of its own, which costs as much as a step's statements. So what a step gives
back lies here, and the next step takes the one that was used last. The pool opens them, and gets back those that
nobody needs any more or that are no longer good.
"""

from __future__ import annotations

import asyncio
from collections import deque

from psycopg.pq import ConnStatus, TransactionStatus
from psycopg_pool import AsyncConnectionPool

from pgdurable._engine.answers import getconn
from pgdurable._engine.connections import read_only_for_good
from pgdurable._engine.step_connection import AsyncStepConnection

__all__ = ["StepShelf"]

_PATIENCE_S = 5.0


class StepShelf:
    """Hands out at most `max_size` connections of the pool; who comes when all are in use waits in line.

    Args:
        idle_s: seconds after which an unused connection goes back to the pool, which closes it in its own time.
        renewed: whether connections go back that may write no more; behind a pooler what they tell of that is old.
    """

    def __init__(
        self,
        pool: AsyncConnectionPool[AsyncStepConnection],
        max_size: int,
        *,
        idle_s: float = 30.0,
        renewed: bool = True,
    ) -> None:
        self._pool = pool
        self._renewed = renewed
        self._max_size = max_size
        self._idle_s = idle_s
        self._idle: list[tuple[float, AsyncStepConnection]] = []  # the one used last at the end
        self._waiting: deque[asyncio.Future[AsyncStepConnection | None]] = deque()
        self._held = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self) -> AsyncStepConnection:
        """A connection, for `put`. Raises psycopg.OperationalError when none can be opened."""
        while True:
            if self._idle:
                return self._idle.pop()[1]
            if self._held < self._max_size:
                self._held += 1
                try:
                    return await getconn(self._pool, _PATIENCE_S)
                except BaseException:
                    self._let_go()
                    raise
            turn: asyncio.Future[AsyncStepConnection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                conn = await turn
            except BaseException:
                # Its turn may have come while it was cancelled.
                if not turn.cancelled():
                    given = turn.result()
                    if given is not None:
                        await self.put(given)
                    else:
                        self._next(None)
                raise
            if conn is not None:
                return conn

    async def put(self, conn: AsyncStepConnection) -> None:
        """Takes a connection back."""
        pgconn = conn.pgconn
        if (
            self._closed
            or pgconn.status != ConnStatus.OK
            or pgconn.transaction_status != TransactionStatus.IDLE
            or (self._renewed and read_only_for_good(conn))
        ):
            self._let_go()
            await self._pool.putconn(conn)
        elif not self._next(conn):
            loop = asyncio.get_running_loop()
            self._idle.append((loop.time(), conn))
            if self._sweep is None:
                self._sweep = loop.call_later(self._idle_s, self._on_sweep)

    async def close(self) -> None:
        """Gives everything that is not in use back to the pool, and from now on whatever comes back."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._sweeping is not None:
            await self._sweeping
        await self._give_back(len(self._idle))

    def _let_go(self) -> None:
        self._held -= 1
        self._next(None)

    def _next(self, conn: AsyncStepConnection | None) -> bool:
        """Hands a connection, or the right to open one, to who waits longest. Returns whether somebody took it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(conn)
                return True
        return False

    def _on_sweep(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        old = loop.time() - self._idle_s
        number = sum(at <= old for at, _ in self._idle)
        if number:
            self._sweeping = loop.create_task(self._give_back(number))
        if len(self._idle) > number:
            self._sweep = loop.call_later(self._idle[number][0] - old, self._on_sweep)

    async def _give_back(self, number: int) -> None:
        """The `number` connections that were unused longest."""
        going, self._idle = self._idle[:number], self._idle[number:]
        for _, conn in going:
            self._let_go()
            await self._pool.putconn(conn)
