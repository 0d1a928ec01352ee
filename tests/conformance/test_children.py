"""Child workflows and cancellation: the same on both stores."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pgdurable as pgd

from .worlds import World, scenario


@pgd.step
async def double(n: int) -> int:
    return 2 * n


@pgd.workflow(name="conformance.child")
async def child(n: int) -> int:
    return await double(n)


@pgd.workflow(name="conformance.broken_child")
async def broken_child(n: int) -> int:
    raise ValueError(f"no {n}")


@pgd.workflow(name="conformance.waiting_child")
async def waiting_child(n: int = 0) -> str:
    try:
        return str(await pgd.wait_signal("go"))
    except asyncio.CancelledError:
        await double(n)
        raise


@pgd.workflow(name="conformance.parent")
async def parent(n: int) -> list[int]:
    one = await child(n)
    handle = await pgd.start_child(child, n + 1)
    return [one, await handle.result(), *await asyncio.gather(*(child(k) for k in range(3)))]


@scenario
async def test_children_are_called_started_and_awaited(world: World) -> None:
    handle = await world.start(parent, 5)
    assert await handle.result(timeout=20) == [10, 12, 0, 2, 4]
    kinds = [entry.kind for entry in await world.entries(handle)]
    assert sorted(kinds) == ["child"] * 5 + ["child_end"] * 5
    started = [info async for info in world.client.list(workflow=child) if info.parent == handle.instance_id]
    assert [info.status for info in started] == ["completed"] * 5


@pgd.workflow(name="conformance.blocking_parent")
def blocking_parent(n: int) -> int:
    handle = pgd.start_child(child, n)
    return child(n) + handle.result()  # type: ignore[operator,no-any-return]


@scenario
async def test_a_def_workflow_has_children_too(world: World) -> None:
    handle = await world.start(blocking_parent, 3)
    assert await handle.result(timeout=20) == 12


@pgd.workflow(name="conformance.catching_parent")
async def catching_parent(id: str) -> list[Any]:
    found: list[Any] = []
    try:
        await broken_child(1)
    except pgd.InstanceFailed as error:
        found += [error.status, error.type]
    handle = await pgd.start_child(child, 5, id=f"{id}/first", labels={"of": "named"}, priority=2)
    found += [handle.id, await handle.result()]
    try:
        await pgd.start_child(child, 6, id=id)  # the parent's own
    except pgd.InvalidId as error:
        found.append("another instance has it" in str(error))
    return found


@scenario
async def test_a_childs_failure_and_a_taken_id_are_raised_in_the_parent(world: World) -> None:
    id = "conformance/catching"
    handle = await world.start(catching_parent, id, id=id)
    assert await handle.result(timeout=20) == ["failed", "builtins.ValueError", f"{id}/first", 10, True]


@pgd.workflow(name="conformance.leaving_parent")
async def leaving_parent() -> list[str]:
    one = await pgd.start_child(waiting_child, 1)
    two = await pgd.start_child(waiting_child, 2, parent_close="abandon")
    return [one.id, two.id]


@scenario
async def test_the_end_of_a_parent_cancels_or_abandons_its_children(world: World) -> None:
    handle = await world.start(leaving_parent)
    left, abandoned = await handle.result(timeout=20)
    with pytest.raises(pgd.InstanceFailed) as caught:
        await (await world.client.get(left)).result(timeout=20)
    assert caught.value.status == "cancelled"
    await (await world.client.get(abandoned)).signal("go", "on")
    assert await (await world.client.get(abandoned)).result(timeout=20) == "on"


@pgd.workflow(name="conformance.impatient_parent")
async def impatient_parent(seconds: float) -> str:
    try:
        return str(await asyncio.wait_for(waiting_child(3), seconds))
    except asyncio.TimeoutError:
        await double(1)
        return "gave up"


@scenario
async def test_a_child_that_is_no_longer_waited_for_is_cancelled(world: World) -> None:
    handle = await world.start(impatient_parent, 0.03)
    assert await handle.result(timeout=20) == "gave up"

    async def cancelled() -> bool:
        mine = [i async for i in world.client.list(workflow=waiting_child) if i.parent == handle.instance_id]
        return [info.status for info in mine] in (["cancelled"], [])

    await world.until(cancelled, "the child is cancelled")


@scenario
async def test_children_outlive_a_crash(world: World) -> None:
    handle = await world.start(parent, 1)
    await world.crash()
    assert await handle.result(timeout=20) == [2, 4, 0, 2, 4]
