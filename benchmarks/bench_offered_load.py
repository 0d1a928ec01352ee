"""What is the latency of a step at 1,000, 10,000 and 50,000 steps/s offered?

An open loop, so no coordinated omission: arrivals come at times fixed beforehand (`open_loop`), each one ends a step
of some instance that waits for it, and the latency runs from the intended time of arrival until the workflow has the
step's durable result in hand. When everybody is busy an arrival waits in a queue, and that counts.

The instances were started before; each has as many steps as arrivals happen to reach it. So the load is steps alone.

Beside it, the same arrivals, in turns with the engine's: commit only. The leanest group commit there is
(`group_commit`): one connection, arrivals during one commit share the next. Single-row commits could not carry 10,000
a second over one connection, so they would be no floor.

A rate that cannot be kept shows as latencies that grow with the length of the run; `kept` says what part of the offered
rate was done when the last arrival came. There the figure says only that this rate is too much.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import asdict
from typing import Any

import pytest

from benchmarks.figures import curve, latency
from benchmarks.group_commit import GroupCommit
from benchmarks.lab import Lab
from benchmarks.open_loop import Arrivals
from pgdurable._engine.ids import Ids
from pgdurable.cli.bench_floor import make_bare_tables
from pgdurable.workflow import Step, Workflow

# rate -> (seconds, instances that take the arrivals)
RATES = {1_000: (5.0, 200), 10_000: (5.0, 500), 50_000: (3.0, 2_000)}
TURNS = 2
new_id = Ids(lambda: 0).new_id


class Desk:
    """Where arrivals and waiting steps meet."""

    def __init__(self) -> None:
        self.steps: deque[asyncio.Future[float]] = deque()
        self.queue: deque[float] = deque()
        self.felt: list[float] = []
        self.closed = False

    def arrive(self, due: float) -> None:
        if self.steps:
            self.steps.popleft().set_result(due)
        else:
            self.queue.append(due)

    def close(self) -> None:
        """The steps that wait, and all later ones, end with 0: the load is over."""
        self.closed = True
        while self.steps:
            self.steps.popleft().set_result(0.0)


desk = Desk()


async def _arrive() -> float:
    if desk.queue:
        return desk.queue.popleft()
    if desk.closed:
        return 0.0
    future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    desk.steps.append(future)
    return await future


arrive = Step(_arrive, name="arrive")


async def _offered() -> int:
    felt, clock = desk.felt.append, time.perf_counter
    steps = 0
    while due := await arrive():
        felt(clock() - due)
        steps += 1
    return steps


offered = Workflow(_offered, name="bench_offered")


async def through_engine(lab: Lab, rate: int, seconds: float, instances: int) -> dict[str, Any]:
    global desk
    desk = Desk()
    async with lab.engine([offered], park_after=600) as engine:
        handles = await engine.start_many(offered, [() for _ in range(instances)])
        deadline = time.perf_counter() + 30
        while len(desk.steps) < instances:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"only {len(desk.steps)} of {instances} instances wait for arrivals")
            await asyncio.sleep(0.01)
        arrivals = Arrivals(rate, seconds, desk.arrive)
        await arrivals.run()
        kept = len(desk.felt) / len(arrivals)
        desk.close()
        steps = sum([await handle.result(timeout=120) for handle in handles])
        if steps != len(arrivals):
            raise AssertionError(f"{steps} steps for {len(arrivals)} arrivals")
        return {"felt": desk.felt, "late": arrivals.late, "kept": min(kept, 1.0), "metrics": engine.metrics()}


async def commit_only(lab: Lab, rate: int, seconds: float) -> list[float]:
    with lab.bare() as bare:
        make_bare_tables(bare, lab.schema)
        group = GroupCommit(bare, lab.schema)
        instance, event = new_id(), 0

        def arrived(due: float) -> None:
            nonlocal instance, event
            event += 1
            if event > 10:
                instance, event = new_id(), 1
            group.add(instance, event, due)

        await Arrivals(rate, seconds, arrived).run()
        await group.drained()
        return group.samples


@pytest.mark.parametrize("rate", RATES)
def bench_offered(benchmark: Any, lab: Lab, rate: int) -> None:
    seconds, instances = RATES[rate]
    seconds *= lab.scale
    floors: list[list[float]] = []

    def floor() -> None:
        floors.append(lab.run(commit_only(lab, rate, seconds)))
        lab.calm()

    lab.run(through_engine(lab, rate, 0.5, instances))  # warm-up
    found = lab.rounds(
        benchmark, lambda: lab.run(through_engine(lab, rate, seconds, instances)), before=floor, rounds=TURNS
    )
    felts = [turn["felt"] for turn in found]
    felt, bare = latency(*felts), latency(*floors)
    lab.figure(
        f"offered.{rate // 1000}k", felt.p99_ms, "ms", beside=("commit only, p99", bare.p99_ms), latency=felt,
        note=f"the p99 of all samples of {len(found)} turns", params={"rate": rate},
        series={"step": curve(*felts), "commit only": curve(*floors)},
        commit_only=asdict(bare), ratio_p50=felt.p50_ms / bare.p50_ms, kept=min(turn["kept"] for turn in found),
        generator_late=asdict(latency(*[turn["late"] for turn in found])),
        core_p50_ms=found[-1]["metrics"]["p50_ms"], core_p99_ms=found[-1]["metrics"]["p99_ms"],
    )  # fmt: skip
