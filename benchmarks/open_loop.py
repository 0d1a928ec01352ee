"""Arrivals at a given rate, whatever the system under load does: an open loop.

The times are fixed beforehand, one after another at random distances (a Poisson process with a fixed seed). When the
system or the generator itself is late, the next arrivals are late too, but their latency counts from the time they
were meant for: nothing is omitted.

asyncio's timers wake on whole milliseconds, too coarse here; the kernel's timerfd does not.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import time
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
CLOCK_MONOTONIC, ABSOLUTE, NONBLOCKING = 1, 1, os.O_NONBLOCK | os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Arrivals:
    """Calls `arrive(due)` for each arrival, at its time or as soon after as the event loop gets round to it.

    Args:
        rate: arrivals a second, on average.
        seconds: how long.
        arrive: gets the intended time, of `time.perf_counter`.

    Attributes:
        late: seconds by which each arrival was handed over too late. It is part of its latency.
    """

    def __init__(self, rate: float, seconds: float, arrive: Callable[[float], None], *, seed: int = 1) -> None:
        draw = random.Random(seed).expovariate
        at, self._due = 0.0, []
        while (at := at + draw(rate)) < seconds:
            self._due.append(at)
        self._arrive = arrive
        self._next = 0
        self.late: list[float] = []

    def __len__(self) -> int:
        return len(self._due)

    async def run(self) -> None:
        """Returns after the last arrival."""
        loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = loop.create_future()
        self._fd = _libc.timerfd_create(CLOCK_MONOTONIC, NONBLOCKING)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        # perf_counter and the timer both are CLOCK_MONOTONIC on Linux.
        self._zero = time.perf_counter() + 0.01
        loop.add_reader(self._fd, self._wake)
        try:
            self._arm()
            await self._done
        finally:
            loop.remove_reader(self._fd)
            os.close(self._fd)

    def _arm(self) -> None:
        at = self._zero + self._due[self._next]
        spec = _Itimerspec(_Timespec(0, 0), _Timespec(int(at), int(at % 1 * 1e9)))
        if _libc.timerfd_settime(self._fd, ABSOLUTE, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _wake(self) -> None:
        due, zero, number = self._due, self._zero, len(self._due)
        try:
            now = time.perf_counter()
            while self._next < number and zero + due[self._next] <= now:
                at = zero + due[self._next]
                self._next += 1
                self.late.append(now - at)
                self._arrive(at)
            if self._next < number:
                self._arm()
            elif not self._done.done():
                self._done.set_result(None)
        except Exception as error:
            if not self._done.done():
                self._done.set_exception(error)
