"""What workflow code may do besides steps and waits: the same on both stores."""

from __future__ import annotations

import asyncio
from typing import Any

import pgdurable as pgd
from pgdurable.workflow import Workflow

from .worlds import World, scenario


@pgd.step
async def add(total: int, n: int) -> int:
    return total + n


@pgd.step
async def do(name: str) -> str:
    return f"the {name}"


@pgd.workflow(name="conformance.counts")
async def counts(left: int, total: int = 0) -> int:
    total = await add(total, left)
    if left > 1:
        pgd.continue_as_new(left - 1, total=total)
    return total


@scenario
async def test_an_instance_continues_as_new(world: World) -> None:
    handle = await world.start(counts, 5)
    assert await handle.result(timeout=20) == 15
    assert [entry.kind for entry in await world.entries(handle)] == [*["step", "continued"] * 4, "step"]


@pgd.workflow(name="conformance.mailbox")
async def mailbox(seen: list[str]) -> list[str]:
    seen.append(await pgd.wait_signal("letter"))
    if seen[-1] != "stop":
        pgd.continue_as_new(seen)
    return seen


@scenario
async def test_signals_are_kept_for_the_next_run(world: World) -> None:
    handle = await world.start(mailbox, [])
    for letter in ("a", "b", "c"):
        await handle.signal("letter", letter)
    await world.crash()
    await handle.signal("letter", "stop")
    assert await handle.result(timeout=20) == ["a", "b", "c", "stop"]


async def _before() -> list[Any]:
    return [await do("old"), await pgd.wait_signal("go"), await do("old")]


async def _after() -> list[Any]:
    first = await do("new" if pgd.patched("better") else "old")
    return [first, await pgd.wait_signal("go"), await do("new" if pgd.patched("better") else "old")]


before = pgd.workflow(name="conformance.patched")(_before)
after = Workflow(_after, name="conformance.patched")


@scenario
async def test_a_patch_keeps_instances_on_the_side_they_began_on(world: World) -> None:
    old = await world.start(before)
    await world.has(old, "step")
    await world.deploy(after)
    await old.signal("go", 1)
    assert await old.result(timeout=20) == ["the old", 1, "the old"]


@pgd.workflow(name="conformance.many_at_once")
async def many_at_once(n: int) -> int:
    return sum(await asyncio.gather(*(add(0, k) for k in range(n))))


@scenario(crashes=False)  # two runs per commit of hundreds of steps say nothing new
async def test_many_steps_at_once(world: World) -> None:
    handle = await world.start(many_at_once, 500)
    assert await handle.result(timeout=60) == sum(range(500))
