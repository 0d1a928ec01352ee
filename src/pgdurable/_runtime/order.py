"""Tasks and futures that sets hold in the same order in every process.

`asyncio.wait` returns sets, a task group keeps one, and so do users. Plain tasks hash by their address, so
``for task in pending: task.cancel()`` would issue its commands in another order in replay. Those of a workflow
hash by their number instead.
"""

from __future__ import annotations

import asyncio
import builtins
from asyncio import Future, Task
from asyncio.events import _get_running_loop
from collections.abc import Coroutine
from typing import Any

__all__ = ["OrderedFuture", "OrderedTask", "first_hash", "order_as_completed"]

_MASK = (1 << 60) - 1


def first_hash(seed: bytes) -> int:
    """Where an instance's hashes begin: far apart, because all tasks of a process share one set in asyncio."""
    return int.from_bytes(seed[-8:], "big") & _MASK


class OrderedTask(Task[Any]):
    """A task that hashes by a number of its own."""

    __slots__ = ("_hash",)

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._hash = number & _MASK  # before asyncio's part, which puts it into a set
        Task.__init__(self, coro, **options)

    def __hash__(self) -> int:
        return self._hash


class OrderedFuture(Future[Any]):
    """A future that hashes by a number of its own."""

    __slots__ = ("_hash",)

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._hash = number & _MASK
        Future.__init__(self, loop=loop)

    def __hash__(self) -> int:
        return self._hash


def order_as_completed(loop_type: Any) -> None:
    """Lets `asyncio.as_completed` start its coroutines in the order given, on loops of this type.

    It starts them in the order of ``set(coroutines)``, which is that of their addresses. What its module calls
    `set` is the one place to mend that for everybody who has imported it; elsewhere it stays a set.
    """

    def ordered_set(*items: Any) -> Any:
        if items and _get_running_loop().__class__ is loop_type:
            return dict.fromkeys(*items)
        return builtins.set(*items)

    vars(asyncio.tasks)["set"] = ordered_set
