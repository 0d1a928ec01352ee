"""Starts without end do not keep what has begun from ending."""

from __future__ import annotations

import asyncio

import pgdurable as pgd

from .namespace import until


@pgd.step(name="storm_step")
async def add_one(n: int) -> int:
    return n + 1


@pgd.workflow(name="storm")
async def storm(n: int) -> int:
    for _ in range(10):
        n = await add_one(n)
    return n


async def test_instances_end_while_more_are_started_than_can_be_run(dsn: str, schema: str) -> None:
    async with pgd.Engine(dsn, schema=schema, workflows=[storm], migrate=True, max_instances=500) as engine:
        over = asyncio.Event()

        async def start() -> None:
            while not over.is_set():
                await engine.start(storm, 1)

        callers = [asyncio.create_task(start()) for _ in range(3_000)]
        await until(lambda: engine.metrics()["ended"] >= 500, "as many as there is room for have ended")
        done = engine.metrics()["steps_done"]
        await until(lambda: engine.metrics()["steps_done"] >= done + 10_000, "others go on")
        over.set()
        await asyncio.gather(*callers)
