"""Code that no longer fits its history: paused, told where it differs, resumed by code that fits."""

from __future__ import annotations

import pytest

import pgdurable as pgd
from pgdurable.workflow import Workflow

from .worlds import World, scenario


@pgd.step
async def first() -> str:
    return "first"


@pgd.step
async def second() -> str:
    return "second"


async def written(go_on: str = "go") -> list[str]:
    return [await first(), await pgd.wait_signal(go_on)]


async def rewritten(go_on: str = "go") -> list[str]:
    return [await second(), await pgd.wait_signal(go_on)]


old = pgd.workflow(name="conformance.rewritten")(written)
new = Workflow(rewritten, name="conformance.rewritten")


@scenario
async def test_code_that_differs_pauses_and_code_that_fits_goes_on(world: World) -> None:
    handle = await world.start(old)
    await world.has(handle, "step")
    await world.deploy(new)
    with pytest.raises(pgd.InstancePaused) as caught:
        await handle.result(timeout=20)
    assert "first difference: event 1, command #0" in str(caught.value)
    assert "history:  step 'first'" in str(caught.value)
    assert "code now: step 'second'" in str(caught.value)
    await world.deploy(old)
    assert await handle.resume() is True
    await handle.signal("go", "on")
    assert await handle.result(timeout=20) == ["first", "on"]
