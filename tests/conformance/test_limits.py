"""Limits of instances and steps, attempts that are recorded first, heartbeats: the same on both stores."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

import pgdurable as pgd

from .worlds import World, scenario

SEEN: list[Any] = []
BROKEN = {"on": True}


@pgd.step
async def tidy() -> str:
    return "tidied"


@pgd.workflow(name="conformance.hour", timeout=0.5)
async def hour() -> None:
    try:
        await pgd.wait_signal("never")
    except asyncio.CancelledError as cancelled:
        SEEN.append(type(cancelled.args[0]))
        await tidy()
        raise


@pgd.workflow(name="conformance.patient")
async def patient() -> None:
    await pgd.wait_signal("never")


async def times_out(handle: pgd.Handle[Any]) -> None:
    with pytest.raises(pgd.InstanceFailed, match="ran over its timeout") as failed:
        await handle.result(timeout=20)
    assert failed.value.status == "timed_out"


@scenario
async def test_an_instance_over_its_time_cleans_up(world: World) -> None:
    SEEN.clear()
    handle = await world.start(hour)
    await times_out(handle)
    assert set(SEEN) == {pgd.WorkflowTimeout}
    assert [entry.kind for entry in await world.entries(handle)] == ["deadline", "step"]
    assert (await handle.describe()).deadline is not None


@scenario
async def test_the_time_of_a_start_outlives_its_worker(world: World) -> None:
    handle = await world.start(patient, timeout=0.6)
    await world.pass_time(0.1)
    await world.crash()
    assert (await handle.describe()).status != "timed_out"
    await times_out(handle)
    info = await handle.describe()
    assert info.finished_at >= info.deadline  # type: ignore[operator]


@pgd.step(retry=pgd.Retry(max_attempts=2, initial=0.0, on_exhausted="pause"))
async def fragile() -> str:
    if BROKEN["on"]:
        raise ConnectionError("bank is closed")
    return "paid"


@pgd.workflow(name="conformance.pays")
async def pays() -> str:
    return await fragile()


@scenario
async def test_attempts_that_are_used_up_pause_and_begin_anew(world: World) -> None:
    BROKEN["on"] = True
    handle = await world.start(pays)
    await world.status_is(handle, "paused")
    assert "bank is closed" in (await handle.describe()).error["message"]  # type: ignore[index]
    BROKEN["on"] = False
    await world.crash()
    assert await handle.resume() is True
    assert await handle.result(timeout=20) == "paid"
    kinds = [(entry.kind, entry.attempt) for entry in await world.entries(handle)]
    assert kinds == [("attempt", 1), ("attempt", 2), ("step", 1)]


@pgd.step(total_timeout=0.3, retry=pgd.Retry(max_attempts=None, initial=0.05, multiplier=1.0, jitter=0.0))
async def unlucky() -> None:
    raise OSError("not yet")


@pgd.workflow(name="conformance.limited")
async def limited() -> str:
    try:
        await unlucky()
    except pgd.StepTimeout as error:
        return str(error)
    return ""


@scenario
async def test_all_attempts_share_a_limit(world: World) -> None:
    text = await (await world.start(limited)).result(timeout=20)
    assert "took longer than its total_timeout of 0.3 s" in text
    assert text.endswith("the last one failed with OSError: not yet")


@pgd.step(at_most_once=True)
async def fax() -> str:
    SEEN.append("fax")
    await asyncio.Event().wait()
    return "sent"


@pgd.workflow(name="conformance.faxes")
async def faxes() -> str:
    try:
        return await fax()
    except pgd.StepInterrupted as error:
        return f"interrupted {error.step} {error.attempt}"


@scenario(crashes=False)
async def test_an_at_most_once_step_is_not_repeated_after_a_crash(world: World) -> None:
    SEEN.clear()
    if world.simulated:
        world.client.mock(fax, takes=math.inf)
    handle = await world.start(faxes)
    await world.has(handle, "pending")
    await world.pass_time(0.05)
    await world.crash()
    assert await handle.result(timeout=20) == "interrupted fax 1"
    assert [entry.kind for entry in await world.entries(handle)] == ["pending", "step"]


@pgd.step(retry=pgd.Retry(max_attempts=3, initial=0.0))
async def copies() -> int:
    done = pgd.heartbeat_details(int) or 0
    SEEN.append(done)
    pgd.heartbeat(done + 5)
    if done < 10:
        raise OSError("cut off")
    return done


@pgd.workflow(name="conformance.copies")
async def copied() -> int:
    return await copies()


@scenario(crashes=False)
async def test_a_heartbeat_s_details_reach_the_next_attempt(world: World) -> None:
    SEEN.clear()
    assert await (await world.start(copied)).result(timeout=20) == 10
    assert SEEN == [0, 5, 10]
