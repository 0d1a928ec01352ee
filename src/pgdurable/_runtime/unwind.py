"""Ending code that is suspended in the middle: coroutines and async generators of an instance that leaves memory."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncGenerator, Coroutine
from threading import local
from typing import Any
from weakref import WeakSet

from pgdurable._runtime.machine import InstanceDropped

__all__ = ["Generators", "unwind"]

logger = logging.getLogger("pgdurable.workflow")

# Code that catches every exception in a loop never ends; this often it is told.
MOST_THROWS = 1000


def unwind(coro: Coroutine[Any, Any, Any], label: object) -> None:
    """Raises InstanceDropped in the coroutine, and again at whatever it awaits on its way out, until it has ended."""
    for _ in range(MOST_THROWS):
        try:
            awaited: Any = coro.throw(InstanceDropped())
        except KeyboardInterrupt:
            raise
        except BaseException:
            return
        if awaited is not None:
            awaited._asyncio_future_blocking = False  # as a task would, lest it raises when awaited again
    _keep_for_ever(coro)
    logger.error("%s: code does not end when its instance leaves memory: %r catches every exception", label, coro)


def _keep_for_ever(coro: Any) -> None:
    """Takes a reference that nobody gives back: to collect it, even at exit, the interpreter would set it going."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(coro))


class _Collecting(local):
    now = False


_collecting = _Collecting()


def _note_collection(phase: str, info: dict[str, Any]) -> None:
    _collecting.now = phase == "start"


class Generators:
    """The async generators that an instance's code has begun.

    asyncio closes one that nobody refers to any more, in a task. So do we where the reference went in the code's
    own course. What the garbage collector finds is kept instead until the instance leaves memory: when it finds
    something is no part of history.
    """

    __slots__ = ("_kept", "_open")

    def __init__(self) -> None:
        if _note_collection not in gc.callbacks:
            gc.callbacks.append(_note_collection)
        self._open: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()
        self._kept: list[AsyncGenerator[Any, Any]] = []

    def begun(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._open.add(generator)

    def keeps(self, generator: AsyncGenerator[Any, Any], running: bool) -> bool:
        """Whether a generator nobody refers to is kept; else it is to be closed now."""
        if running and not _collecting.now:
            return False
        self._kept.append(generator)
        return True

    def close_all(self) -> None:
        for generator in list(self._open):
            close_generator(generator)
        self._open.clear()
        self._kept.clear()


def close_generator(generator: AsyncGenerator[Any, Any]) -> None:
    """Runs the generator's `finally` blocks now."""
    closing: Any = generator.aclose()
    try:
        closing.send(None)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return
    unwind(closing, "an async generator")
