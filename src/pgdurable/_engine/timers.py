"""The durable timers of the instances in memory: which is due next, and waking up for it.

A timer has no row until it fires; this is only where the process keeps the ones it waits for. An instance that is
parked or goes elsewhere takes its timers along in its history.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgdurable._engine.clock import DatabaseClock

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._runtime.machine import Command

__all__ = ["Timers"]

# A timer is looked at again after at most this long, so that a clock that was set does not delay it much.
_LONGEST_NAP_S = 60.0
# Not worth looking for timers of no use among fewer.
_LEAST_SWEPT = 1024


class Timers:
    """See the head of this file. `on_due(hosted, command)` is called once the database's clock has passed its time."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: DatabaseClock, on_due: Callable[[Hosted, Command], None]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._on_due = on_due
        self._heap: list[tuple[int, int, Hosted, Command]] = []
        self._count = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_us = 0
        self._full = _LEAST_SWEPT
        self._swept = time.monotonic()

    def add(self, hosted: Hosted, command: Command) -> None:
        """Wakes the instance when this timer is due, unless it is cancelled or the instance has left by then."""
        self._count += 1
        if len(self._heap) >= self._full:
            self._sweep()
        heapq.heappush(self._heap, (command.due_us, self._count, hosted, command))
        if self._alarm is None or command.due_us < self._alarm_us:
            self._set_alarm()

    def clear(self) -> None:
        """Forgets all of them."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._heap.clear()

    def __len__(self) -> int:
        """Timers kept, some of which may be of no more use."""
        return len(self._heap)

    def _sweep(self) -> None:
        """Lets go of the timers that nobody waits for here any more; the next time is when there are twice as many.

        An instance that sleeps for a month is parked after seconds: without this it would stay in memory all the same.
        """
        self._heap[:] = [entry for entry in self._heap if not (entry[3].cancelled or entry[2].closed)]
        heapq.heapify(self._heap)
        self._swept = time.monotonic()
        self._full = max(2 * len(self._heap), _LEAST_SWEPT)

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        heap = self._heap
        while heap and (heap[0][3].cancelled or heap[0][2].closed):
            heapq.heappop(heap)
        if heap:
            self._alarm_us = heap[0][0]
            wait = (self._alarm_us - self._clock.now_us()) / 1e6
            self._alarm = self._loop.call_later(min(max(wait, 0.0), _LONGEST_NAP_S), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if time.monotonic() - self._swept > _LONGEST_NAP_S:
            self._sweep()
        now_us = self._clock.now_us()
        heap = self._heap
        while heap and heap[0][0] <= now_us:
            _, _, hosted, command = heapq.heappop(heap)
            if not (command.cancelled or hosted.closed or hosted.releasing):
                self._on_due(hosted, command)
        self._set_alarm()
