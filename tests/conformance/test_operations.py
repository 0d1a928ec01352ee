"""What is done to instances from outside: the same on both stores."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import pgdurable as pgd

from .worlds import World, scenario

BROKEN = {"on": True}


@pgd.step
async def note(text: str) -> str:
    return text


@pgd.step
async def endless() -> None:
    await asyncio.Event().wait()


@pgd.step(retry=pgd.Retry(max_attempts=1))
async def fragile(text: str) -> str:
    if BROKEN["on"]:
        raise ValueError(text)
    return f"mended {text}"


@pgd.workflow(name="conformance.cleans_up")
async def cleans_up() -> str:
    try:
        await pgd.wait_signal("never")
    finally:
        await note("cleaned")
    return "?"


@pgd.workflow(name="conformance.refuses")
async def refuses() -> str:
    try:
        await pgd.wait_signal("never")
    except asyncio.CancelledError:
        return await note("went on")
    return "?"


@pgd.workflow(name="conformance.interrupted")
async def interrupted() -> None:
    await endless()


@pgd.workflow(name="conformance.two_steps")
async def two_steps() -> list[str]:
    first = await note("first")
    return [first, await fragile("second")]


@pgd.workflow(name="conformance.asks_twice")
async def asks_twice() -> list[Any]:
    return [await pgd.wait_signal("go"), await note("middle"), await pgd.wait_signal("go")]


async def ends(handle: pgd.Handle[Any], status: str, message: str | None = None) -> None:
    with pytest.raises(pgd.InstanceFailed, match=message) as caught:
        await handle.result(timeout=20)
    assert caught.value.status == status


@scenario
async def test_cancelled_code_cleans_up_or_goes_on(world: World) -> None:
    one, two = await world.start(cleans_up), await world.start(refuses)
    await world.pass_time(0.01)
    assert await one.cancel("enough") is True
    assert await two.cancel() is True
    await ends(one, "cancelled")
    assert await two.result(timeout=20) == "went on"
    assert [entry.kind for entry in await world.entries(one)] == ["cancel", "step"]
    assert await one.cancel() is False


@scenario
async def test_what_has_not_begun_is_cancelled_at_once(world: World) -> None:
    handle = await world.start(cleans_up, delay=3600)
    assert await handle.cancel("changed my mind") is True
    await ends(handle, "cancelled", "cancelled before it began: changed my mind")
    assert await world.entries(handle) == []


@scenario
async def test_a_running_step_is_interrupted_by_cancel_and_terminate(world: World) -> None:
    if world.simulated:
        world.client.mock(endless, takes=math.inf)
    one, two = await world.start(interrupted), await world.start(interrupted)
    await world.pass_time(0.02)
    await one.cancel()
    await two.terminate("at once")
    await ends(one, "cancelled")
    await ends(two, "cancelled", "Terminated: it was terminated: at once")


@scenario
async def test_terminated_code_is_not_asked(world: World) -> None:
    handle = await world.start(refuses)
    await world.pass_time(0.01)
    assert await handle.terminate() is True
    await ends(handle, "cancelled", "terminated")
    assert await world.entries(handle) == []
    assert await handle.terminate() is False


@scenario
async def test_a_paused_instance_stands_still_until_it_is_resumed(world: World) -> None:
    handle = await world.start(asks_twice)
    await handle.signal("go", 1)
    await world.has(handle, "signal", "step")
    assert await handle.pause() is True
    await world.status_is(handle, "paused")
    await handle.signal("go", 2)
    await world.pass_time(0.02)
    assert await handle.status() == "paused"
    assert await handle.resume() is True
    assert await handle.result(timeout=20) == [1, "middle", 2]


@scenario
async def test_a_failed_instance_is_retried_from_the_step_that_failed(world: World) -> None:
    BROKEN["on"] = True
    handle = await world.start(two_steps)
    await ends(handle, "failed", "second")
    BROKEN["on"] = False
    assert await handle.retry() is True
    assert await handle.result(timeout=20) == ["first", "mended second"]
    assert [entry.kind for entry in await world.entries(handle)] == ["step", "undone step", "retry", "step"]


@scenario
async def test_a_fork_goes_on_from_a_place_in_history(world: World) -> None:
    handle = await world.start(asks_twice)
    await handle.signal("go", 1)
    await world.has(handle, "signal", "step")
    copy = await handle.fork(from_event=3)
    await handle.signal("go", "original")
    await copy.signal("go", "copy")
    assert await handle.result(timeout=20) == [1, "middle", "original"]
    assert await copy.result(timeout=20) == [1, "middle", "copy"]
    assert [entry.kind for entry in await world.entries(copy)] == ["forked", "signal", "step", "signal"]


@scenario
async def test_an_ended_instance_can_be_deleted(world: World) -> None:
    handle = await world.start(asks_twice)
    with pytest.raises(pgd.InstanceNotFinished):
        await handle.delete()
    await handle.terminate()
    await ends(handle, "cancelled")
    await handle.delete()
    with pytest.raises(pgd.InstanceNotFound):
        await handle.status()


@scenario
async def test_operations_on_many_by_what_fits(world: World) -> None:
    handles = [await world.start(cleans_up, labels={"batch": "b-1", "n": n}) for n in range(3)]
    other = await world.start(cleans_up, labels={"batch": "b-2"})
    await world.pass_time(0.01)
    done = await world.client.cancel(labels={"batch": "b-1"}, workflow=cleans_up)
    assert done.done == 3
    for handle in handles:
        await ends(handle, "cancelled")
    assert (await world.client.terminate(other.id)).done == 1
    await ends(other, "cancelled")
