"""Ending tasks for certain, and waiting with a limit in a way that lets them be ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any, TypeVar

__all__ = ["Bell", "end_tasks", "heed_cancel", "within"]

T = TypeVar("T")


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancels the tasks and waits until they have ended, whatever they end in.

    Once is not enough: before Python 3.12 `asyncio.wait_for` loses a cancellation that meets the end of what it
    waits for, and the task would go on.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=0.1)


async def within(timeout: float | None, work: Awaitable[T]) -> T:
    """The work's result, or asyncio.TimeoutError after so many seconds (None: for ever).

    As `asyncio.wait_for`, without losing a cancellation where Python offers that (3.11).
    """
    if timeout is None:
        return await work
    if sys.version_info >= (3, 11):
        async with asyncio.timeout(timeout):
            return await work
    else:
        return await asyncio.wait_for(work, timeout)


def heed_cancel() -> None:
    """Raises the CancelledError that something the task awaited has swallowed; a loop that goes on for ever asks.

    A connection pool does so when a connection comes in the same moment. `end_tasks` asks again, asyncio.run does not.
    Python tells since 3.11.
    """
    task = asyncio.current_task()
    if sys.version_info >= (3, 11) and task is not None and task.cancelling():
        raise asyncio.CancelledError


class Bell:
    """Something to wait for with a limit, without a task per wait. Rung before the wait, it is not missed."""

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        self._rung = False

    async def wait(self, longest: float) -> bool:
        """Waits until rung, or so many seconds. Returns whether it was rung."""
        if self._rung:
            return True
        loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(longest, _let_go, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return self._rung


def _let_go(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
