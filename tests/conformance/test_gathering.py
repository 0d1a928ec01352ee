"""Keys, debounced starts and batches: the same on both stores."""

from __future__ import annotations

import pytest

import pgdurable as pgd

from .worlds import World, scenario


@pgd.step
async def echo(value: str) -> str:
    return value


@pgd.workflow(name="conformance.once")
async def once(name: str) -> str:
    return await echo(name) + str(await pgd.wait_signal("go", timeout=3600))


@pgd.workflow(name="conformance.says")
async def says(name: str) -> str:
    return await echo(name)


@pgd.workflow(name="conformance.gathers", batch=pgd.Batch(max=3, wait=0.2))
async def gathers(names: list[str]) -> list[str]:
    return [await echo(name) for name in names]


@scenario
async def test_a_key_is_held_while_its_instance_lives(world: World) -> None:
    first = await world.start(once, "1", queue="mail", dedup="k")
    assert (await world.start(once, "2", queue="mail", dedup="k")).instance_id == first.instance_id
    with pytest.raises(pgd.InvalidId, match=r"held by an instance of workflow 'conformance\.once'"):
        await world.start(says, "2", queue="mail", dedup="k")
    assert (await world.start(says, "3", queue="sms", dedup="k")).instance_id != first.instance_id
    await first.signal("go", 7)
    assert await first.result(timeout=20) == "17"
    assert (await world.start(once, "4", queue="mail", dedup="k")).instance_id != first.instance_id


@scenario
async def test_the_last_of_debounced_starts_counts(world: World) -> None:
    handles = [await world.start(says, str(n), debounce=0.3, key="k") for n in range(4)]
    assert len({handle.instance_id for handle in handles}) == 1
    assert await handles[0].result(timeout=20) == "3"
    later = await world.start(says, "later", debounce=0.1, key="k")
    assert later.instance_id != handles[0].instance_id
    assert await later.result(timeout=20) == "later"


@scenario
async def test_a_batch_begins_when_it_is_full_or_has_waited(world: World) -> None:
    handles = [await world.start(gathers, str(n)) for n in range(5)]
    assert len({handle.instance_id for handle in handles}) == 2
    assert await handles[0].result(timeout=20) == ["0", "1", "2"]
    assert await handles[4].result(timeout=20) == ["3", "4"]
