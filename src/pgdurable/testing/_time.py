"""How a test lets time pass: until something has happened, or the clock says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from pgdurable._engine.clock import micros
from pgdurable.errors import PgDurableError
from pgdurable.retry import seconds
from pgdurable.testing._clock import VirtualClock
from pgdurable.testing._doubles import Doubles
from pgdurable.testing._process import Process
from pgdurable.testing._store import Store

__all__ = ["Stalled", "Time"]

_QUIET_TURNS = 3  # of the event loop, before everything is taken to wait
_SPINS = 200  # turns before looking only now and then
_GRACE_S = 0.5


class Stalled(PgDurableError):
    """Nothing will happen any more of what the test waits for: no timer is set, no step runs."""


class Time:
    """The part of a `Simulation` that moves its clock."""

    clock: VirtualClock
    _store: Store
    _doubles: Doubles
    _patience: float
    _incarnations: int
    _running: Callable[[], Process]

    @property
    def now(self) -> datetime:
        """The simulation's time, in UTC."""
        return self.clock.now

    async def advance(self, by: float | timedelta = 0.0, **units: float) -> datetime:
        """Lets time pass, and everything happen that happens meanwhile; returns the new time.

        Args:
            by: seconds (or timedelta).
            units: `days=`, `hours=`, `minutes=`, `seconds=` and so on, as timedelta takes them.
        """
        span = timedelta(seconds=seconds(by) or 0.0) + timedelta(**units)
        if span < timedelta(0):
            raise ValueError(f"time does not go back, found {span}")
        return await self.advance_to(self.now + span)

    async def advance_to(self, when: datetime) -> datetime:
        """As `advance`, to a moment (with a time zone)."""
        await self._drive(lambda: False, micros(when.astimezone(timezone.utc)))
        return self.now

    async def settle(self) -> None:
        """Lets everything happen that takes no time: returns when all wait for the clock, an event, or a hung step."""
        quiet = spins = 0
        progress: Any = None
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            process = self._running()
            seen = (self._store.version, len(self._doubles.calls), self._incarnations, self.clock.now_us())
            if seen != progress:
                progress, since, quiet = seen, time.monotonic(), 0
            if not process.busy:
                quiet += 1
                continue
            quiet = 0
            spins += 1
            if spins > _SPINS:
                if time.monotonic() - since > self._patience:
                    self._too_long(process)
                await asyncio.sleep(0.0005)

    async def run(self) -> datetime:
        """Lets time pass until nothing is left that time would bring about; returns the time then."""
        await self._drive(lambda: False, None, stalls=False)
        return self.now

    async def sleep(self, delay: float | timedelta) -> None:
        """For steps and mocks: waits by the simulation's clock. (Workflows use asyncio.sleep; tests, `advance`.)"""
        await self._doubles.sleep(seconds(delay) or 0.0)

    async def _drive(self, done: Callable[[], bool], until_us: int | None, *, stalls: bool = True) -> None:
        clock = self.clock
        while True:
            await self.settle()
            await self._look()
            if done():
                return
            next_us = clock.next_us() if until_us is not None or clock.awaited else None
            if until_us is not None and (next_us is None or next_us > until_us):
                clock.advance_to(until_us)
                await self.settle()
                return
            if next_us is not None:
                clock.advance_to(next_us)
            elif not stalls:
                return
            else:
                await self._stalled()

    async def _look(self) -> None:
        """Asks, on behalf of those who wait, for what is there by now."""

    async def _stalled(self) -> None:
        """Another task of the test may be about to send something; after a moment without, the test is told."""
        version = self._store.version
        give_up = time.monotonic() + _GRACE_S
        while self._store.version == version and not self.clock.awaited:
            if time.monotonic() > give_up:
                raise Stalled(self._why_stalled(), hint="Send what it waits for before waiting for its result.")
            await asyncio.sleep(0.001)

    def _why_stalled(self) -> str:
        process = self._running()
        lines = []
        for row in self._store.instances.values():
            name = f"instance {row.key or row.uuid} of workflow {row.workflow}"
            if row.ended:
                continue
            if row.status == "paused":
                lines.append(f"{name} is paused")
            elif not process.has(row):
                lines.append(f"{name} is {row.status}: no such workflow is registered here")
            else:
                lines.append(f"{name} is {row.status}, and waits for an event: a signal, say")
        return "nothing will happen any more:" + "".join(f"\n  {line}" for line in lines[:10])

    def _too_long(self, process: Process) -> None:
        running = process.running()
        raise Stalled(
            f"after {self._patience:g} s of real time there still run: {', '.join(running) or 'workflow code'}",
            hint="A step's own waiting takes real time here. Mock it: sim.mock(step, returns=..., takes=60) takes 60 s "
            "of the simulation's time; inside a step or mock use await sim.sleep(60).",
        )
