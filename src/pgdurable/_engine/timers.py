"""The durable timers of the instances in memory: which is due next, and waking up for it.

A timer has no row until it fires; this is only where the process keeps the ones it waits for. An instance that is
parked or goes elsewhere takes its timers along in its history.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgdurable._engine.clock import DatabaseClock

if TYPE_CHECKING:
    from pgdurable._engine.hosted import Hosted
    from pgdurable._runtime.machine import Command

__all__ = ["Timers"]

# A timer is looked at again after at most this long, so that a clock that was set does not delay it much.
_LONGEST_NAP_S = 60.0


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
        self._resting = False

    def add(self, hosted: Hosted, command: Command) -> None:
        """Wakes the instance when this timer is due, unless it is cancelled or the instance has left by then."""
        self._count += 1
        heapq.heappush(self._heap, (command.due_us, self._count, hosted, command))
        if self._alarm is None or command.due_us < self._alarm_us:
            self._set_alarm()

    def rest(self) -> None:
        """No timer fires any more: the engine is stopping."""
        self._resting = True

    def clear(self) -> None:
        """Forgets all of them; new ones fire again."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._heap.clear()
        self._resting = False

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        heap = self._heap
        while heap and (heap[0][3].cancelled or heap[0][2].closed):
            heapq.heappop(heap)
        if heap and not self._resting:
            self._alarm_us = heap[0][0]
            wait = (self._alarm_us - self._clock.now_us()) / 1e6
            self._alarm = self._loop.call_later(min(max(wait, 0.0), _LONGEST_NAP_S), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now_us = self._clock.now_us()
        heap = self._heap
        while heap and heap[0][0] <= now_us:
            _, _, hosted, command = heapq.heappop(heap)
            if not (command.cancelled or hosted.closed or hosted.releasing):
                self._on_due(hosted, command)
        self._set_alarm()
