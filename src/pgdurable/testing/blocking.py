"""A simulation for blocking code: the same methods, each of which runs the event loop until it is done."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from pgdurable.handle import Handle
from pgdurable.testing.simulation import Simulation

__all__ = ["blocking"]


class _Face:
    """What looks like an object, and blocks where that is awaited."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.isroutine(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._show(found(*[_bare(arg) for arg in args], **{key: _bare(v) for key, v in kwargs.items()}))

        return call

    def _show(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._loop.run_until_complete(_awaited(value))
        if isinstance(value, Handle):
            return _Face(value, self._loop)
        if isinstance(value, list):
            return [self._show(item) for item in value]
        if hasattr(value, "__anext__"):
            return self._iterate(value)
        return value

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        end = object()

        async def following() -> Any:
            async for item in items:
                return item
            return end

        while (item := self._loop.run_until_complete(following())) is not end:
            yield self._show(item)

    def __repr__(self) -> str:
        return f"<blocking {self._inner!r}>"


async def _awaited(value: Any) -> Any:
    return await value


def _bare(value: Any) -> Any:
    return value._inner if isinstance(value, _Face) else value


@contextmanager
def blocking(simulation: Simulation) -> Iterator[Any]:
    """``with blocking(Simulation()) as sim``: its methods, and those of its handles, block instead of being awaited.

    Steps in threads go on between calls; everything else stands still until the next one.
    """
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(simulation.open())
        try:
            yield _Face(simulation, loop)
        finally:
            loop.run_until_complete(simulation.close())
            loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
