"""Random workflows in the simulation, whose process crashes at random points, give the result of the crash-free run.

The same programs as in test_crash.py, without a server: so there can be many more of them, and crashes at every kind of
point, between a commit and its being told among them.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, note, settings
from hypothesis import strategies as st

import pgdurable as pgd
from pgdurable.testing import Simulation
from pgdurable.testing._crashes import Crashes
from pgdurable.workflow import Workflow
from tests.property.programs import executions, nodes, programs, run_blocking, run_program
from tests.property.test_replay import untimed_outcome


async def program(node: dict[str, Any], tag: int) -> Any:
    return await run_program(node, tag)


def blocking_program(node: dict[str, Any], tag: int) -> Any:
    return run_blocking(node, tag)


definition = Workflow(program, name="simulated.program")
blocking_definition = Workflow(blocking_program, name="simulated.blocking_program")


class RandomCrashes(Crashes):
    """Dies at so many of the points it comes by, at random."""

    def __init__(self, seed: int, most: int) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self._most = most
        self.points: list[str] = []

    def reach(self, point: str) -> bool:
        if self._most and self._rng.random() < 0.08:
            self._most -= 1
            self.points.append(point)  # maybe in a step's thread
            return True
        return False


async def outcome(handle: Any) -> Any:
    try:
        return "completed", await handle.result()
    except pgd.InstanceFailed as error:
        return "failed", str(error.type).rpartition(".")[2], "boom"


async def run(batch: list[Any], threaded: int, crashes: Crashes) -> tuple[list[Any], list[Any]]:
    """Outcomes, and the steps that ran again after their checkpoint. The last `threaded` are for `def` workflows."""
    again: list[Any] = []
    async with Simulation(workflows=[definition, blocking_definition]) as sim:
        sim._crashes = crashes
        handles = []
        for n, node in enumerate(batch):
            chosen = definition if n < len(batch) - threaded else blocking_definition
            handle = await sim.start(chosen, node, n)
            handles.append(handle)
            for part in nodes(node):
                if part["do"] == "signal":
                    await handle.signal(f"s{part['label']}", f"s{part['label']}")
        outcomes = [await outcome(handle) for handle in handles]
        for n, handle in enumerate(handles):
            rows = [entry async for entry in handle.history() if entry.kind == "step"]
            numbers = [entry.seq for entry in rows]
            again += [(n, seq) for seq in numbers if numbers.count(seq) > 1]
    return outcomes, again


@settings(max_examples=100, deadline=None, print_blob=True)
@given(
    batch=st.lists(programs(timed=False, most_nodes=16), min_size=1, max_size=4),
    blocking=st.lists(programs(timed=False, blocking=True, most_nodes=8), max_size=2),
    seed=st.integers(0, 2**32 - 1),
    crashes=st.integers(0, 6),
)
def test_simulated_crashes_give_the_crash_free_result(
    batch: list[Any], blocking: list[Any], seed: int, crashes: int
) -> None:
    expected = [untimed_outcome(node) for node in batch]
    expected += [untimed_outcome(node, fn=run_blocking) for node in blocking]
    executions.clear()
    dying = RandomCrashes(seed, crashes)
    found, again = asyncio.run(run(batch + blocking, len(blocking), dying))
    note(f"crashes at {dying.points}")
    for node, wanted, got in zip(batch + blocking, expected, found, strict=True):
        assert got == wanted, node
    assert again == [], "steps that have two checkpoints"


@settings(max_examples=100, deadline=None, print_blob=True)
@given(node=programs(timed=True, most_nodes=20), seed=st.integers(0, 2**32 - 1))
def test_timed_programs_replay_wherever_they_are_parked(node: Any, seed: int) -> None:
    """Replayed at every wait or never: the same history, the same outcome, the same times."""

    async def once(park_after: float | None) -> Any:
        executions.clear()
        async with Simulation(workflows=[definition], park_after=park_after, seed=seed) as sim:
            handle = await sim.start(definition, node, 0)
            await handle.signal("p", 1)
            await sim.advance(0.7)
            await handle.signal("q", 2) if not (await handle.describe()).finished_at else None
            await sim.run()
            info = await handle.describe()
            rows = [(e.event_id, e.kind, e.seq, e.name, e.value, e.at) async for e in handle.history()]
            waits = info.status in ("running", "waiting")
            return "waits" if waits else info.status, info.output, rows

    assert asyncio.run(once(0.0)) == asyncio.run(once(None))
