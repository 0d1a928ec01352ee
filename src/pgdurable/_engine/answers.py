"""Every call to the database ends: connections are waited for with a limit, and so is every answer.

TCP's own limits (connections.py) notice a dead machine and a cut cable. A server process that hangs still answers for
TCP, and cancelling the call is no way out: psycopg then asks the same server to cancel, and waits for that. So the
session is cut from this side, and whoever waits for an answer of it gets psycopg.OperationalError.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

__all__ = [
    "BlockingConnection",
    "LimitedConnection",
    "NoAnswer",
    "answer_s",
    "answers_within",
    "borrow",
    "cut",
    "getconn",
]

T = TypeVar("T", bound=psycopg.AsyncConnection[Any])

# Seconds the server gets to answer one of the library's own statements.
ANSWER_S = 30.0
# A pool tries to connect for some seconds for whoever asks, and after that for nobody until the next one asks.
_ASK_AGAIN_S = 3.0


class NoAnswer(psycopg.OperationalError):
    """The server answered nothing in time; whether it has done what it was asked is not known."""


def answer_s() -> float:
    """`ANSWER_S`, as it is now."""
    return ANSWER_S


def cut(conn: psycopg.AsyncConnection[Any] | psycopg.Connection[Any]) -> None:
    """Ends the session from this side at once, whatever it is in the middle of. Safe in any thread."""
    if conn.closed:
        return
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.pgconn.socket)) as end:
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def answers_within(conn: psycopg.AsyncConnection[Any], longest: float) -> Iterator[None]:
    """All that the body asks of the connection is answered within so many seconds, or raises NoAnswer."""
    timer = asyncio.get_running_loop().call_later(longest, cut, conn)
    with _in_time(conn, longest, timer):
        yield


@contextmanager
def _in_time(conn: Any, longest: float, timer: asyncio.TimerHandle | threading.Timer) -> Iterator[None]:
    due = time.monotonic() + longest
    try:
        yield
    except psycopg.OperationalError as error:
        if error.sqlstate is None and time.monotonic() >= due - 0.01:
            raise NoAnswer(f"the server gave no answer within {longest:g} s") from error
        raise
    finally:
        timer.cancel()


class LimitedConnection(psycopg.AsyncConnection[Any]):
    """Gives the server `ANSWER_S` for each answer."""

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """As psycopg's, within `ANSWER_S`."""
        with answers_within(self, ANSWER_S):
            return await super().wait(gen, *args, **options)


class BlockingConnection(psycopg.Connection[Any]):
    """As LimitedConnection, for the command line."""

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """As psycopg's, within `ANSWER_S`."""
        timer = threading.Timer(ANSWER_S, cut, (self,))
        timer.daemon = True
        timer.start()
        with _in_time(self, ANSWER_S, timer):
            return super().wait(gen, *args, **options)


@asynccontextmanager
async def borrow(pool: AsyncConnectionPool[T], patience: float | None = None) -> AsyncIterator[T]:
    """A connection of the pool for the body; PoolTimeout with the reason when there is none within `patience` seconds.

    As `pool.connection`, which leaves those who wait without a try once the pool has given up connecting.
    """
    conn = await getconn(pool, ANSWER_S if patience is None else patience)
    try:
        yield conn
    finally:
        await pool.putconn(conn)


async def getconn(pool: AsyncConnectionPool[T], patience: float) -> T:
    """A connection, for `pool.putconn`; else as `borrow`."""
    until = time.monotonic() + patience
    while True:
        left = until - time.monotonic()
        try:
            return await pool.getconn(timeout=max(min(left, _ASK_AGAIN_S), 0.001))
        except PoolTimeout as error:
            if until - time.monotonic() > 0.001:
                continue
            reason = getattr(pool.connection_class, "last_error", None)
            text = f"no connection within {patience:g} s"
            raise PoolTimeout(text if reason is None else f"{text}: {str(reason).strip()}") from (reason or error)
