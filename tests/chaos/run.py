"""A run: the schedule of faults, the run itself, and the verdict."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from . import checker, evidence, history
from .nemesis import Fault, NoEffect, missing
from .outages import KINDS
from .world import SCHEMA, SHOP, Settings, World

__all__ = ["Plan", "Result", "plan", "play"]

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Planned:
    """A fault to come, seconds after the beginning. Its seed decides everything else about it."""

    at: float
    kind: str
    seed: int


Plan = list[Planned]


def plan(seed: int, seconds: float, kinds: Iterable[str], every: float) -> Plan:
    """A schedule: each kind at least once, one fault every so many seconds on average. A pure function."""
    chance = random.Random(seed)
    known = sorted(kinds)
    number = max(len(known), round(seconds / every))
    drawn = chance.sample(known, len(known))
    drawn += chance.choices(known, [KINDS[kind].weight for kind in known], k=number - len(known))
    # The rare ones first among equals: a fault that takes long must not be the last.
    first, rest = drawn[: len(known)], drawn[len(known) :]
    chance.shuffle(rest)
    mixed: list[str] = []
    while first or rest:
        take = first if first and (not rest or chance.random() < 0.6) else rest
        mixed.append(take.pop(0))
    times = sorted(chance.uniform(0.0, seconds) for _ in mixed)
    return [Planned(at, kind, chance.getrandbits(32)) for at, kind in zip(times, mixed, strict=True)]


@dataclass
class Result:
    """What came of a run.

    Attributes:
        faults: how many took effect, by kind.
        without: how many did not, by kind: they came in the way of others.
        absent: kinds that could not be injected here, and why.
        checked: how much the checker has looked at.
    """

    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    without: Counter[str] = field(default_factory=Counter)
    absent: dict[str, str] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    violations: list[checker.Violation] = field(default_factory=list)
    unended: str | None = None
    server: str = ""
    evidence: evidence.Evidence | None = None

    @property
    def passed(self) -> bool:
        """Every kind has taken effect, everything has ended, nothing is wrong."""
        return not self.violations and self.unended is None and not self.missing

    @property
    def missing(self) -> list[str]:
        """Kinds of fault that were wanted and never took effect."""
        return sorted(kind for kind in self.without if not self.faults[kind])


class Nemesis:
    """Lets the faults of a plan loose, each when its time comes, whatever the others do."""

    def __init__(self, world: World, result: Result, say: Callable[[str], None]) -> None:
        self._world = world
        self._result = result
        self._say = say
        self._tasks: set[asyncio.Task[None]] = set()
        self.trouble: BaseException | None = None

    async def play(self, planned: Plan) -> None:
        began = time.monotonic()
        for one in planned:
            await asyncio.sleep(max(0.0, began + one.at - time.monotonic()))
            if self.trouble is not None:
                raise self.trouble
            self.loose(one)

    def loose(self, one: Planned) -> None:
        fault = KINDS[one.kind](self._world, random.Random(one.seed))
        task = asyncio.get_running_loop().create_task(self._strike(fault))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def rest(self) -> None:
        """Waits until every fault is over."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self.trouble is not None:
            raise self.trouble

    async def _strike(self, fault: Fault) -> None:
        try:
            effect = await fault.strike()
        except (NoEffect, TimeoutError, asyncio.TimeoutError, psycopg.OperationalError) as error:
            self._result.without[fault.kind] += 1
            self._world.history.note("no effect", kind=fault.kind, what=str(error))
            self._say(f"{fault}: without effect: {error}")
        except BaseException as error:
            self.trouble = error
            self._world.history.note("trouble", kind=fault.kind, what=repr(error))
        else:
            self._result.faults[fault.kind] += 1
            self._say(f"{fault}: {effect}")


async def play(
    settings: Settings,
    folder: Path,
    planned: Plan,
    seconds: float,
    *,
    say: Callable[[str], None] = lambda line: None,
    watch: Callable[[World, Result], None] = lambda world, result: None,
    patience: float = PATIENCE_S,
    again: bool = True,
) -> Result:
    """Plays a plan and checks what it left behind.

    Args:
        say: told of each fault.
        watch: called about twice a second.
        patience: seconds for everything to end when the faults are over.
        again: kinds that had no effect, because others came in their way, are tried again, alone.
    """
    result = Result(settings.seed)
    began = time.monotonic()
    async with World(settings, folder) as world:
        result.server = world.server_version
        wanted = {one.kind for one in planned}
        result.absent = {kind: why for kind in wanted if (why := missing(KINDS[kind].needs, world)) is not None}
        planned = [one for one in planned if one.kind not in result.absent]
        watcher = asyncio.get_running_loop().create_task(_watch(lambda: watch(world, result)))
        nemesis = Nemesis(world, result, say)
        try:
            playing = time.monotonic()
            await nemesis.play(planned)
            await asyncio.sleep(max(0.0, playing + seconds - time.monotonic()))
            await nemesis.rest()
            for attempt in range(3 if again else 0):
                for kind in sorted(set(result.without) - set(result.faults)):
                    say(f"{kind}: once more, alone")
                    nemesis.loose(Planned(0.0, kind, settings.seed + attempt))
                    await nemesis.rest()
            events = await _finish(world, result, patience)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        with psycopg.connect(world.server.dsn, autocommit=True) as conn:
            found = evidence.gather(conn, SCHEMA, SHOP, events)
    result.seconds = time.monotonic() - began
    result.evidence = found
    result.violations = checker.check(found)
    result.checked = checker.looked_at(found)
    return result


async def _watch(call: Callable[[], None]) -> None:
    while True:
        call()
        await asyncio.sleep(0.5)


async def _finish(world: World, result: Result, patience: float) -> list[history.Event]:
    """Lets everything end, then the processes in good order. Reads the history."""
    deadline = time.monotonic() + patience
    world.history.note("closing")

    async def left() -> float:
        return max(1.0, deadline - time.monotonic())

    try:
        for slot in world.slots:
            await world.until(lambda slot=slot: world.works(slot), f"{slot.name} has joined", await left())  # type: ignore[misc]
            slot.signal(signal.SIGUSR1)
        assert world.front.process is not None
        assert world.front.process.stdin is not None
        world.front.process.stdin.close()
        if (status := await asyncio.wait_for(world.front.process.wait(), await left())) != 0:
            raise TimeoutError(f"the customers ended with {status}")
        for slot in world.slots:
            await world.until(lambda slot=slot: _quiet(world, slot), f"{slot.name} has no more orders", await left())  # type: ignore[misc]
        await world.rows("select @.pause_schedule('patrol')")
        await world.until(lambda: _ended(world), "every instance has ended", await left())
        for slot in world.slots:
            status = await world.end(slot, await left())
            if status != 0:
                raise TimeoutError(f"{slot.name} ended with {status}")
    except (TimeoutError, asyncio.TimeoutError) as error:
        result.unended = f"{error}\n{await world.said()}"
        for slot in (*world.slots, world.front):
            if slot.alive:
                slot.signal(signal.SIGKILL)
    return history.read(world.history_path)


async def _quiet(world: World, slot: Any) -> bool:
    return world.noted("quiet", slot.name)


async def _ended(world: World) -> bool:
    return await world.unended() == 0
