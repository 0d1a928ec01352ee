"""Callers side by side, in threads or on one event loop. An error of one of them ends the run with that error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def in_threads(work: Callable[[T], None], each: Iterable[T]) -> None:
    items = list(each)
    with ThreadPoolExecutor(len(items)) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()


def on_a_loop(work: Callable[[], Awaitable[Any]], concurrency: int) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(concurrency)))

    asyncio.run(all_of_them())
