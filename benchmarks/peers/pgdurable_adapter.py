"""pgdurable: callers on one event loop start a workflow, await its result, and start the next."""

from __future__ import annotations

import asyncio
import time
from array import array

import pgdurable as pgd

VERSION = pgd.__version__
WARM_MODE = ""
STEPS = 10
_latencies = array("f")


@pgd.step
async def add_one(n: int) -> int:
    return n + 1


@pgd.workflow(name="ten_steps")
async def ten_steps(n: int) -> int:
    for _ in range(STEPS):
        began = time.perf_counter()
        n = await add_one(n)
        _latencies.append(time.perf_counter() - began)
    return n


_loop = asyncio.new_event_loop()
_engine: pgd.Engine


def open(dsn: str, number: int) -> None:
    global _engine
    _engine = pgd.Engine(dsn, workflows=[ten_steps], migrate=True)
    _loop.run_until_complete(_engine.open())


def run(mode: str, concurrency: int, until: float, latencies: array[float]) -> None:
    global _latencies
    _latencies = latencies

    async def caller() -> None:
        while time.perf_counter() < until:
            handle = await _engine.start(ten_steps, 0)
            if await handle.result() != STEPS:
                raise RuntimeError("wrong result")

    async def callers() -> None:
        await asyncio.gather(*(caller() for _ in range(concurrency)))

    _loop.run_until_complete(callers())


def close() -> None:
    _loop.run_until_complete(_engine.close())
    _loop.close()
