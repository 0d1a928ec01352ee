"""Published state, updates, queries and streams: the same on both stores."""

from __future__ import annotations

import asyncio
import uuid

import pytest

import pgdurable as pgd

from .worlds import World, scenario


@pgd.step
async def pack(item: str) -> str:
    return f"packed {item}"


@pgd.workflow(name="conformance.cart")
async def cart(limit: int) -> list[str]:
    items: list[str] = []
    closed = False

    @pgd.on_update
    async def add(item: str) -> int:
        items.append(await pack(item))
        return len(items)

    @add.validator
    def check(item: str) -> None:
        if len(items) >= limit:
            raise ValueError(f"at most {limit} items")

    @pgd.on_update
    def close() -> str:
        nonlocal closed
        closed = True
        return "closed"

    @pgd.on_update
    async def fail() -> None:
        raise LookupError("the handler's own")

    @pgd.on_query
    def content() -> list[str]:
        return items

    await pgd.wait_until(lambda: closed)
    return items


@scenario
async def test_updates_are_carried_out_in_order_and_answered_once(world: World) -> None:
    handle = await world.start(cart, 2)
    key = uuid.uuid5(uuid.NAMESPACE_OID, "conformance")
    assert await handle.update("add", "a", key=key, timeout=20) == 1
    assert await handle.update("add", "a", key=key, timeout=20) == 1  # the same request
    assert await handle.update("add", "b", timeout=20) == 2
    with pytest.raises(pgd.UpdateRejected, match="at most 2 items"):
        await handle.update("add", "c", timeout=20)
    with pytest.raises(pgd.UpdateFailed, match="LookupError: the handler's own"):
        await handle.update("fail", timeout=20)
    await world.crash()
    assert await handle.query("content", timeout=20) == ["packed a", "packed b"]
    assert await handle.update("close", timeout=20) == "closed"
    assert await handle.result(timeout=20) == ["packed a", "packed b"]
    assert await handle.query("content", timeout=20) == ["packed a", "packed b"]
    with pytest.raises(pgd.InstanceFinished):
        await handle.update("add", "d", timeout=20)
    with pytest.raises(pgd.QueryFailed):
        await handle.query("nothing", timeout=20)


@pgd.workflow(name="conformance.publishes")
async def publishes() -> str:
    pgd.set_state("phase", "begun")
    await asyncio.sleep(0.05)
    pgd.set_state("phase", "waiting")
    answer = await pgd.wait_signal("go")
    pgd.set_state("phase", {"ended": answer})
    return "done"


@scenario
async def test_published_state_is_read_and_awaited(world: World) -> None:
    handle = await world.start(publishes)
    assert await handle.wait_state("phase", "waiting", timeout=20) == "waiting"
    assert await handle.states() == {"phase": "waiting"}
    await handle.signal("go", 7)
    assert await handle.result(timeout=20) == "done"
    assert await handle.state("phase") == {"ended": 7}
    assert await handle.state("other", "nothing") == "nothing"
    with pytest.raises(pgd.InstanceFinished):
        await handle.wait_state("phase", "never")


@pgd.workflow(name="conformance.tells")
async def tells() -> str:
    words = pgd.stream("words")
    await words.write("first")
    await asyncio.sleep(0.02)
    for word in ("one", "two", await pack("three")):
        await words.write(word)
    await words.close()
    return "told"


@scenario
async def test_a_stream_is_read_to_its_end(world: World) -> None:
    handle = await world.start(tells)
    assert [word async for word in handle.stream("words")] == ["first", "one", "two", "packed three"]
    assert await handle.result(timeout=20) == "told"
    items = [item async for item in handle.stream("words", 2).items()]
    assert [item.value for item in items] == ["two", "packed three"]


@pgd.step
async def narrate(text: str) -> int:
    words = pgd.stream("narration")
    for word in text.split():
        await words.write(word)
    return len(text.split())


@pgd.workflow(name="conformance.narrates")
async def narrates() -> int:
    return await narrate("one two three")


@scenario
async def test_a_step_streams_each_item_once_whatever_crashes(world: World) -> None:
    handle = await world.start(narrates)
    assert await handle.result(timeout=20) == 3
    assert [word async for word in handle.stream("narration")] == ["one", "two", "three"]
