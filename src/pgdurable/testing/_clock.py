"""Time that passes when it is told to: a clock, its alarms, and those who sleep by it."""

from __future__ import annotations

import asyncio
import bisect
import heapq
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from time import perf_counter
from typing import Any

from pgdurable._runtime.machine import LATEST_US

__all__ = ["Alarm", "VirtualClock", "at_time"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def at_time(us: int) -> datetime:
    """The moment so many microseconds after 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=us)


class Alarm:
    """A callback at a time, as `asyncio.TimerHandle` is to those who cancel it.

    Attributes:
        idle: nobody waits for it: where there are only such, nothing more will happen.
    """

    __slots__ = ("args", "at_us", "callback", "cancelled_", "idle")

    def __init__(self, at_us: int, callback: Callable[..., Any], args: tuple[Any, ...], idle: bool) -> None:
        self.at_us = at_us
        self.callback = callback
        self.args = args
        self.idle = idle
        self.cancelled_ = False

    def cancel(self) -> None:
        self.cancelled_ = True

    def cancelled(self) -> bool:
        return self.cancelled_


class VirtualClock:
    """What the simulation takes for the database's clock.

    Args:
        start_us: the time it begins with, in microseconds since 1970.
    """

    def __init__(self, start_us: int) -> None:
        self._now_us = start_us
        self._count = 0
        self._heap: list[tuple[int, int, Alarm]] = []
        self._moves: list[tuple[float, int]] = []  # when the clock was moved, by perf_counter, and from what time

    def now_us(self) -> int:
        """Microseconds since 1970."""
        return self._now_us

    def seconds(self) -> float:
        """Seconds since 1970."""
        return self._now_us / 1e6

    def since(self, reading: float) -> float:
        """Seconds of this clock since a reading of `perf_counter`."""
        place = bisect.bisect_left(self._moves, (reading, 0))
        then_us = self._moves[place][1] if place < len(self._moves) else self._now_us
        return (self._now_us - then_us) / 1e6

    @property
    def now(self) -> datetime:
        return at_time(self._now_us)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Alarm:
        """As the event loop's, by this clock."""
        return self.call_at(self._now_us + math.ceil(max(min(delay, 1e12), 0.0) * 1e6), callback, *args)

    def call_at(self, at_us: int, callback: Callable[..., Any], *args: Any, idle: bool = False) -> Alarm:
        """Calls back, from the event loop, once it is that time."""
        alarm = Alarm(min(at_us, LATEST_US), callback, args, idle)
        self._count += 1
        heapq.heappush(self._heap, (alarm.at_us, self._count, alarm))
        return alarm

    async def sleep(self, seconds: float) -> None:
        """Waits so many seconds of this clock; math.inf: until cancelled."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = None if math.isinf(seconds) else self.call_later(seconds, _wake, future)
        try:
            await future
        finally:
            if alarm is not None:
                alarm.cancel()

    def next_us(self) -> int | None:
        """When the next alarm rings, or None."""
        heap = self._heap
        while heap and heap[0][2].cancelled_:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    @property
    def awaited(self) -> bool:
        """Whether anything waits for time to pass."""
        return any(not (alarm.cancelled_ or alarm.idle) for _, _, alarm in self._heap)

    def advance_to(self, at_us: int) -> None:
        """Lets it be that time, and rings the alarms up to then, in order. It never goes back."""
        loop = asyncio.get_running_loop()
        if at_us > self._now_us:
            self._moves.append((perf_counter(), self._now_us))
            self._now_us = at_us
        while self._heap and self._heap[0][0] <= self._now_us:
            _, _, alarm = heapq.heappop(self._heap)
            if not alarm.cancelled_:
                loop.call_soon(_ring, alarm)


def _ring(alarm: Alarm) -> None:
    if not alarm.cancelled_:
        alarm.callback(*alarm.args)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
