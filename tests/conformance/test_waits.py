"""Timers, signals, parking, and asyncio's own primitives: the same on both stores."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd

from .worlds import World, scenario


@pgd.step
async def echo(value: Any) -> Any:
    return value


@pgd.workflow(name="conformance.collects")
async def collects(n: int, first_step: bool = False) -> list[Any]:
    if first_step:
        await echo(0)
    return [await pgd.wait_signal("s") for _ in range(n)]


@scenario
async def test_signals_arrive_once_and_in_the_order_sent(world: World) -> None:
    handle = await world.start(collects, 5, True)
    for n in range(5):
        await handle.signal("s", n)
    assert await handle.result(timeout=20) == list(range(5))
    entries = await world.entries(handle)
    assert [entry.value for entry in entries if entry.kind == "signal"] == list(range(5))


@scenario
async def test_an_ended_instance_takes_no_signal(world: World) -> None:
    handle = await world.start(collects, 0)
    assert await handle.result(timeout=20) == []
    with pytest.raises(pgd.InstanceFinished, match="has ended"):
        await handle.signal("s")
    with pytest.raises(pgd.InstanceNotFound, match="no instance has the id 'nobody'"):
        await world.client.signal("nobody", "s")


@pgd.workflow(name="conformance.late")
async def late() -> list[Any]:
    found: list[Any] = []
    try:
        await pgd.wait_signal("s", timeout=0.02)
    except TimeoutError:
        found.append("late")
    return [*found, await pgd.wait_signal("s", timeout=3600)]


@scenario
async def test_a_wait_that_timed_out_takes_no_signal(world: World) -> None:
    handle = await world.start(late)

    async def fired() -> bool:
        return bool(await world.entries(handle))

    await world.until(fired, "its timer has fired")
    await handle.signal("s", 1)
    assert await handle.result(timeout=20) == ["late", 1]
    await world.has(handle, "timer", "signal")


@pgd.workflow(name="conformance.sleeps")
async def sleeps(naps: list[float]) -> float:
    began = pgd.now()
    for nap in naps:
        await asyncio.sleep(nap)
    return (pgd.now() - began).total_seconds()


@scenario
async def test_a_sleep_takes_no_less_than_it_says(world: World) -> None:
    handle = await world.start(sleeps, [0.02, 0.03])
    assert await handle.result(timeout=20) >= 0.05
    await world.has(handle, "timer", "timer")


@pgd.workflow(name="conformance.parked")
async def parked() -> list[Any]:
    first = await echo("first")
    signal = await pgd.wait_signal("go")
    return [first, signal, str(pgd.uuid4()), pgd.random()]


@scenario
async def test_what_only_waits_leaves_memory_and_comes_back(world: World) -> None:
    handle = await world.start(parked)
    await world.pass_time(0.01)
    if world.simulated:
        await world.pass_time(10)
    await world.status_is(handle, "waiting")
    await handle.signal("go", "now")
    first, signal, *_ = await handle.result(timeout=20)
    assert (first, signal) == ("first", "now")


@pgd.workflow(name="conformance.primitives")
async def primitives() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["gather"] = await asyncio.gather(*(echo(n) for n in range(5)))
    done, pending = await asyncio.wait(
        {asyncio.create_task(echo("fast")), asyncio.create_task(asyncio.sleep(3600))},
        return_when=asyncio.FIRST_COMPLETED,
    )
    found["wait"] = [task.result() for task in done]
    for task in pending:
        task.cancel()
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    except asyncio.TimeoutError:
        found["wait_for"] = "timed out"
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def fill() -> None:
        for n in range(3):
            await queue.put(await echo(n))

    filling = asyncio.create_task(fill())
    found["queue"] = [await queue.get() for _ in range(3)]
    await filling
    lock = asyncio.Lock()
    order: list[int] = []

    async def locked(n: int) -> None:
        async with lock:
            await asyncio.sleep(0.001)
            order.append(await echo(n))

    await asyncio.gather(*(locked(n) for n in range(3)))
    found["lock"] = order
    found["as_completed"] = sorted([await each for each in asyncio.as_completed([echo(n) for n in range(3)])])
    return found


@scenario
async def test_asyncio_means_what_it_means_anywhere(world: World) -> None:
    handle = await world.start(primitives)
    assert await handle.result(timeout=20) == {
        "gather": [0, 1, 2, 3, 4],
        "wait": ["fast"],
        "wait_for": "timed out",
        "queue": [0, 1, 2],
        "lock": [0, 1, 2],
        "as_completed": [0, 1, 2],
    }


@pgd.workflow(name="conformance.chance")
async def chance() -> list[Any]:
    before = [pgd.random(), str(pgd.uuid4())]
    await asyncio.sleep(0.005)
    await echo(1)
    return [*before, await echo(before)]


@scenario
async def test_chance_is_the_same_in_replay(world: World) -> None:
    handle = await world.start(chance)
    await world.crash()
    number, id, noted = await handle.result(timeout=20)
    assert noted == [number, id]


@scenario
async def test_a_start_can_be_delayed(world: World) -> None:
    handle = await world.start(collects, 0, delay=0.03)
    assert await handle.result(timeout=20) == []
    info = await handle.describe()
    assert info.started_at is not None
    assert (info.started_at - info.created_at).total_seconds() >= 0.03
