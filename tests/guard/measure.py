"""Measures what a step costs: `.venv/bin/python tests/guard/measure.py` prints every value beside its ceiling.

Each measure runs in a process of its own (`measure.py MEASURE DSN SCHEMA`), so that neither pytest nor another measure
is counted.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pgdurable as pgd

if not __package__:  # run as a program
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from guard import callgrind
from guard.ceilings import CEILINGS

STEPS = 10
LEAK = bool(os.environ.get("PGDURABLE_GUARD_LEAK"))  # for the test of the guard itself
_leaked: list[Any] = []


@pgd.step
async def work(n: int) -> int:
    return n + 1


@pgd.workflow(name="guard_steps")
async def ten_steps(n: int) -> int:
    for _ in range(STEPS):
        n = await work(n)
    return n


@pgd.workflow(name="guard_waiting")
async def waiting(n: int) -> int:
    await work(n)
    await pgd.wait_signal("go")
    return n


async def run_instances(engine: pgd.Engine, instances: int, concurrent: int) -> None:
    left = iter(range(instances))

    async def caller() -> None:
        for _ in left:
            handle = await engine.start(ten_steps, 0)
            if await handle.result() != STEPS:
                raise SystemExit(f"instance {handle.id} gave a wrong result")
            if LEAK:
                _leaked.append(bytearray(64))

    await asyncio.gather(*(caller() for _ in range(concurrent)))


async def calls(engine: pgd.Engine) -> dict[str, float]:
    found = {}
    for mood, instances, concurrent in (("idle", 50, 1), ("loaded", 400, 100)):
        await run_instances(engine, max(instances // 4, concurrent), concurrent)
        python = c = 0

        def count(frame: Any, event: str, arg: Any) -> None:
            nonlocal python, c
            if event == "call":
                python += 1
            elif event == "c_call":
                c += 1

        sys.setprofile(count)
        try:
            await run_instances(engine, instances, concurrent)
        finally:
            sys.setprofile(None)
        found[f"python calls per step, {mood}"] = python / instances / STEPS
        found[f"c calls per step, {mood}"] = c / instances / STEPS
    return found


# Instances and callers whose instructions are counted: few, as each instruction takes fifty times as long.
COUNTED = {"idle": (20, 1), "loaded": (100, 50)}


async def counted(engine: pgd.Engine, mood: str) -> dict[str, float]:
    """The workload for `callgrind.instructions`."""
    instances, concurrent = COUNTED[mood]
    await run_instances(engine, max(concurrent, 3), concurrent)
    print("ready", flush=True)
    sys.stdin.readline()
    await run_instances(engine, instances, concurrent)
    print("done", flush=True)
    sys.stdin.readline()
    return {}


async def collections(engine: pgd.Engine) -> dict[str, float]:
    await run_instances(engine, 200, 50)
    gc.collect()
    before = gc.get_stats()[0]["collections"]
    await run_instances(engine, 1_000, 50)
    return {"collections per 1,000 steps": (gc.get_stats()[0]["collections"] - before) / 1_000 / STEPS * 1_000}


async def held(engine: pgd.Engine) -> dict[str, float]:
    instances = 1_000

    async def start() -> list[Any]:
        handles = await engine.start_many(waiting, [(n,) for n in range(instances)])
        while engine.metrics()["steps_done"] < expected or engine.metrics()["steps_running"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return [handle.id for handle in handles]

    expected = instances
    first = await start()  # what grows once is not counted
    gc.collect()
    blocks = sys.getallocatedblocks()
    tracemalloc.start()
    expected += instances
    second = await start()
    gc.collect()
    if engine.metrics()["instances"] != 2 * instances:
        raise SystemExit(f"{engine.metrics()['instances']} instances in memory, expected {2 * instances}")
    found = {
        "bytes per waiting instance": tracemalloc.get_traced_memory()[0] / instances,
        # tracemalloc's own bookkeeping is not in Python's allocator.
        "blocks per waiting instance": (sys.getallocatedblocks() - blocks) / instances,
    }
    del first, second
    return found


async def kept(engine: pgd.Engine) -> dict[str, float]:
    """The least of some rounds: chance (a table that grows, a page kept back) adds to one, a leak to each of them."""
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    async def least(instances: int, *looks: Callable[[], int]) -> list[float]:
        rounds = []
        for _ in range(4):
            before = [look() for look in looks]
            await run_instances(engine, instances, 100)
            gc.collect()
            rounds.append([(look() - then) / instances for look, then in zip(looks, before, strict=True)])
        return [min(column) for column in zip(*rounds[1:], strict=True)]  # the first is the warm-up

    blocks, rss = await least(800, sys.getallocatedblocks, resident)
    tracemalloc.start()
    (traced,) = await least(150, lambda: tracemalloc.get_traced_memory()[0])
    return {
        "blocks kept per ended instance": blocks,
        "bytes kept per ended instance": traced,
        "resident bytes kept per ended instance": rss,
    }


MEASURES: dict[str, Callable[[pgd.Engine], Any]] = {
    "calls": calls, "collections": collections, "held": held, "kept": kept,
    **{f"instructions {mood}": partial(counted, mood=mood) for mood in COUNTED},
}  # fmt: skip


def measures() -> list[str]:
    """Those that can be taken here: instructions only where valgrind is."""
    return [name for name in MEASURES if callgrind.available() or not name.startswith("instructions")]


def measure(name: str, dsn: str, schema: str) -> dict[str, float]:
    """Runs a measure in a process of its own."""
    if name.startswith("instructions"):
        mood = name.split()[1]
        count = callgrind.instructions(__file__, name, dsn, schema)
        return {f"instructions per step, {mood}": count / COUNTED[mood][0] / STEPS}
    done = subprocess.run(
        [sys.executable, __file__, name, dsn, schema], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"measure {name} failed: {done.stderr}")
    return dict(json.loads(done.stdout))


async def child(name: str, dsn: str, schema: str) -> dict[str, float]:
    # Neither polls nor parking may come in between by chance.
    options = {"poll_interval": 60, "lease": 120, "park_after": 600}
    async with pgd.Engine(dsn, schema=schema, workflows=[ten_steps, waiting], migrate=True, **options) as engine:
        return dict(await MEASURES[name](engine))


def main() -> None:
    if len(sys.argv) == 4:
        found = asyncio.run(child(*sys.argv[1:]))
        if found:
            print(json.dumps(found))
        return
    with pgd.embedded() as dsn:
        for number, name in enumerate(measures()):
            for what, value in measure(name, dsn, f"guard_{number}").items():
                print(f"{what:40} {value:12,.2f}   ceiling {CEILINGS[what]:,g}")


if __name__ == "__main__":
    main()
