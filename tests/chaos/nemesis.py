"""The nemesis: every kind of fault, as a small class that injects it, heals it, and shows that it had an effect.

A fault draws what it does from its own chance, when it is made; so the same seed gives the same faults. It holds the
lock of what it breaks: two faults at once break different things, or one is late. Faults of servers and network are in
`outages.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import psycopg

from .kinds import GENERATIONS
from .world import Slot, World, faketime

__all__ = ["Fault", "NoEffect", "missing"]


class NoEffect(Exception):
    """The fault was injected, and nothing shows that it did anything."""


class Fault:
    """One fault. `strike` is all of it.

    Attributes:
        kind: what results and history call it.
        needs: what the world must have: `standby`, `disk`, `clock`.
        hold_s: shortest and longest time between injecting and healing, in seconds.
        weight: how often it is drawn, beside the others.
    """

    kind: ClassVar[str]
    needs: ClassVar[str | None] = None
    hold_s: ClassVar[tuple[float, float]] = (0.0, 0.0)
    weight: ClassVar[int] = 4

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.slot = chance.choice(world.slots)
        self.hold = chance.uniform(*self.hold_s)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Holds what it breaks."""
        yield

    async def inject(self) -> None:
        raise NotImplementedError

    async def heal(self) -> None:
        """Also called when injecting failed half-way."""

    async def effect(self) -> str:
        """What shows that it took effect; raises NoEffect or TimeoutError."""
        raise NotImplementedError

    async def strike(self) -> str:
        """Injects, holds, heals, and returns the effect."""
        async with self.alone():
            self.world.history.note("fault", kind=self.kind, what=str(self))
            try:
                await self.inject()
                await asyncio.sleep(self.hold)
            finally:
                await self.heal()
                self.world.history.note("healed", kind=self.kind, what=str(self))
            effect = await self.effect()
            self.world.history.note("effect", kind=self.kind, what=effect)
            return effect

    def __str__(self) -> str:
        return self.kind


class WorkerFault(Fault):
    """Breaks one worker process."""

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self.slot.lock:
            await self.world.until(lambda: self.world.works(self.slot), f"{self.slot.name} has joined", 40.0)
            self.name = self.slot.name
            self.worker = self.world.joined(self.name)[-1]
            yield

    async def ended(self, *states: str) -> bool:
        rows = await self.world.rows("select state from @.workers where id = %s", self.worker)
        return bool(rows) and rows[0][0] in states

    async def rejoined(self) -> bool:
        return self.world.joined(self.name)[-1] > self.worker

    def __str__(self) -> str:
        return f"{self.kind} {self.slot.name}"


class WorkerKilled(WorkerFault):
    """kill -9; another process takes its place a moment later."""

    kind = "kill -9 of a worker"
    hold_s = (0.0, 3.0)
    weight = 10

    async def inject(self) -> None:
        self.slot.signal(signal.SIGKILL)
        assert self.slot.process is not None
        await self.slot.process.wait()

    async def heal(self) -> None:
        if not self.slot.alive:
            await self.world.begin(self.slot)

    async def effect(self) -> str:
        await self.world.until(lambda: self.ended("dead", "stopped"), f"worker {self.worker} is taken over", 40.0)
        rows = await self.world.rows("select successor from @.workers where id = %s", self.worker)
        return f"worker {self.worker} was taken over by {rows[0][0]}"


class WorkerStopped(WorkerFault):
    """SIGSTOP for longer than the lease; then it goes on as if nothing had been."""

    kind = "SIGSTOP of a worker past its lease"
    hold_s = (0.0, 2.0)
    weight = 7

    async def inject(self) -> None:
        self.slot.signal(signal.SIGSTOP)
        with contextlib.suppress(TimeoutError):
            await self.world.until(lambda: self.ended("dead"), "it is taken over", self.world.settings.lease + 15.0)

    async def heal(self) -> None:
        self.slot.signal(signal.SIGCONT)

    async def effect(self) -> str:
        if not await self.ended("dead"):
            raise NoEffect(f"worker {self.worker} was not taken over")
        await self.world.until(self.rejoined, f"{self.name} joins anew", 40.0)
        return f"worker {self.worker} was taken over, and came back as {self.world.joined(self.name)[-1]}"


class WokenInTakeover(WorkerStopped):
    """Stopped past its lease, and continued in the middle of being taken over, whose transaction lingers."""

    kind = "SIGCONT in the middle of a takeover"
    hold_s = (0.0, 0.05)
    weight = 4

    async def inject(self) -> None:
        await self.world.rows("update #.linger set seconds = 0.4")
        self.slot.signal(signal.SIGSTOP)
        with contextlib.suppress(TimeoutError):
            await self.world.until(self._taken_now, "its fence is held", self.world.settings.lease + 15.0)

    async def _taken_now(self) -> bool:
        rows = await self.world.rows(
            "select from pg_locks l where l.locktype = 'advisory' and l.granted and l.mode = 'ExclusiveLock'"
            " and l.classid = @.lock_class(0)::oid and l.objid = %s::bigint::oid and l.objsubid = 2", self.worker,
        )  # fmt: skip
        return bool(rows)

    async def heal(self) -> None:
        await super().heal()
        await self.world.rows("update #.linger set seconds = 0")

    async def effect(self) -> str:
        await self.world.until(lambda: self.ended("dead"), f"worker {self.worker} is taken over", 20.0)
        await self.world.until(self.rejoined, f"{self.name} joins anew", 40.0)
        return f"worker {self.worker} woke up while it was taken over"


class ClockSkewed(WorkerFault):
    """The clock of a worker's machine is hours wrong, then wrong the other way, then right again."""

    kind = "clock skew of a worker"
    needs = "clock"
    hold_s = (0.5, 2.0)

    def __init__(self, world: World, chance: random.Random) -> None:
        super().__init__(world, chance)
        self.skews_s = [chance.choice([1, -1]) * chance.choice([20, 600, 7200])]
        self.skews_s.append(-self.skews_s[0] + chance.choice([-5, 5]))
        self.found_s: list[float] = []

    async def inject(self) -> None:
        for skew in self.skews_s:
            self.slot.clock.write_text(f"{skew:+d}")
            await self.world.until(lambda skew=skew: self._wrong_by(skew), f"{self.name}'s clock is wrong", 15.0)  # type: ignore[misc]
            self.found_s.append(skew)
            await asyncio.sleep(self.hold)

    async def _wrong_by(self, skew_s: float) -> bool:
        clock = self.world.clock_of(self.name)
        return clock is not None and abs(clock / 1e6 - time.time() - skew_s) < 5.0

    async def heal(self) -> None:
        self.slot.clock.write_text("+0")

    async def effect(self) -> str:
        if not self.found_s:
            raise NoEffect("its clock stayed right")
        return f"{self.name}'s clock was wrong by {self.found_s} s"


class RollingRestart(Fault):
    """SIGTERM to each worker in turn, and another in its place once it has left."""

    kind = "rolling restart"
    weight = 2

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self.world.rolling:
            yield

    async def inject(self) -> None:
        self.graceful = 0
        for slot in self.world.slots:
            async with slot.lock:
                await self.world.until(lambda slot=slot: self.world.works(slot), f"{slot.name} has joined", 40.0)  # type: ignore[misc]
                try:
                    self.graceful += await self._leaves(slot)
                finally:
                    if slot.alive:  # another fault keeps it from leaving
                        slot.signal(signal.SIGKILL)
                        assert slot.process is not None
                        await slot.process.wait()
                    await self.world.begin(slot)

    async def _leaves(self, slot: Slot) -> bool:
        """Tells it to stop. Returns whether it has left in good order."""
        name, known = slot.name, self.world.joined(slot.name)
        status = await self.world.end(slot)
        if status != 0:
            raise AssertionError(f"{name} ended with {status} when told to stop")
        states = await self.world.rows("select state from @.workers where id = any (%s)", known[-1:])
        return states == [("stopped",)]

    async def effect(self) -> str:
        if not self.graceful:
            raise NoEffect("no worker could leave in good order")
        return f"{self.graceful} of {len(self.world.slots)} workers left in good order"


class NewVersion(RollingRestart):
    """A deploy: a rolling restart with the next generation of the workflows' code."""

    kind = "deploy of a new version"
    weight = 2

    async def inject(self) -> None:
        self.world.generation = min(self.world.generation + 1, GENERATIONS)
        await super().inject()

    async def effect(self) -> str:
        async def there() -> Any:
            return await self.world.rows(
                "select count(*) from @.instances where workflow = 'revised' and version = %s",
                str(self.world.generation),
            )

        async def some() -> bool:
            return bool((await there())[0][0] > 0)

        await self.world.until(some, f"instances of version {self.world.generation} are started", 30.0)
        return f"version {self.world.generation} runs, and {self.world.generation - 1} to its end"

    async def strike(self) -> str:
        if self.world.generation >= GENERATIONS:
            raise NoEffect("there is no newer version")
        return await super().strike()


class PumpTakenForDead(Fault):
    """A session in which workflows in SQL run is declared dead while it lives, between two of its commits.

    It spares those that hold what has struck others already: five of these in a row would be quarantine, and rightly.
    """

    kind = "pump that is taken for dead"
    weight = 4

    async def inject(self) -> None:
        self.taken = 0
        most = self.chance.randint(1, 3)
        for _ in range(200):
            rows = await self.world.rows(
                "select @.take_over(w.id, w.beat, null) from @.workers w where w.name ~ '^pump ' and w.state = 'alive'"
                " and (select max(i.strikes) from @.instances i where i.owner = w.id) < 3 order by random() limit 1"
            )
            self.taken += bool(rows and rows[0][0])
            if self.taken == most:
                break
            await asyncio.sleep(self.chance.uniform(0.005, 0.05))

    async def effect(self) -> str:
        if not self.taken:
            raise NoEffect("no pump was between two commits")
        return f"{self.taken} pumps were declared dead"


class OldSnapshot(Fault):
    """A session that holds a snapshot, as a forgotten transaction or a long report does."""

    kind = "long transaction with an old snapshot"
    hold_s = (5.0, 15.0)
    weight = 3

    async def inject(self) -> None:
        self.behind = 0
        self.conn = await psycopg.AsyncConnection.connect(self.world.server.dsn, application_name="reporter")
        await self.conn.execute("set transaction isolation level repeatable read")
        await self.conn.execute("select 1")

    async def heal(self) -> None:
        conn = getattr(self, "conn", None)
        if conn is None:
            return
        try:
            cursor = await conn.execute("select age(backend_xmin) from pg_stat_activity where pid = pg_backend_pid()")
            row = await cursor.fetchone()
            self.behind = row[0] if row else 0
        except psycopg.OperationalError:
            pass  # another fault ended it
        await conn.close()

    async def effect(self) -> str:
        if self.behind < 20:
            raise NoEffect("it was ended before it was old")
        return f"its snapshot was {self.behind} transactions old"


def missing(needs: str | None, world: World) -> str | None:
    """Why a kind of fault cannot be injected here; None: it can."""
    if needs == "standby" and not world.settings.standby:
        return "this run has one server"
    if needs == "disk" and world.settings.disk_mb is None:
        return "this run has no disk of its own (mounting one needs root)"
    if needs == "clock" and faketime() is None:
        return "libfaketime is not installed (Debian: apt-get install faketime)"
    return None


WORKER_FAULTS: list[type[Fault]] = [
    WorkerKilled, WorkerStopped, WokenInTakeover, ClockSkewed, RollingRestart, NewVersion, PumpTakenForDead,
    OldSnapshot,
]  # fmt: skip
