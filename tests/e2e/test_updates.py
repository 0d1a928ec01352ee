"""Updates: asked for from outside, validated, recorded, carried out in the instance's order, answered for good."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until

ran: list[str] = []
gate = asyncio.Event()


@pgd.step
async def reserve(sku: str, count: int) -> int:
    ran.append(sku)
    if sku == "slow":
        await gate.wait()
    return count


@pgd.workflow(name="talk_cart")
async def cart(limit: int = 100) -> dict[str, int]:
    items: dict[str, int] = {}
    closed = False

    @pgd.on_update("add_item")
    async def add(sku: str, count: int = 1) -> int:
        reserved = await reserve(sku, count)
        items[sku] = items.get(sku, 0) + reserved
        return sum(items.values())

    @add.validator
    def check(sku: str, count: int = 1) -> None:
        if sum(items.values()) + count > limit:
            raise ValueError(f"at most {limit} items")

    @pgd.on_update
    def close() -> str:
        nonlocal closed
        closed = True
        return "closed"

    @pgd.on_update
    async def fail() -> None:
        raise LookupError("the handler's own")

    await pgd.wait_until(lambda: closed)
    return items


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()
    gate.clear()


async def test_an_update_runs_steps_changes_the_workflow_and_is_answered(ns: Namespace) -> None:
    async with ns.engine(cart) as engine:
        h = await engine.start(cart)
        assert await h.update("add_item", "a", 2, timeout=20) == 2
        assert await h.update("add_item", kwargs={"sku": "b"}, timeout=20) == 3
        assert await h.update("close", timeout=20) == "closed"
        assert await h.result(timeout=20) == {"a": 2, "b": 1}
    assert ns.history(h, "kind, name") == [
        ("update", "add_item"), ("step", "reserve"), ("reply", "add_item"),
        ("update", "add_item"), ("step", "reserve"), ("reply", "add_item"),
        ("update", "close"), ("reply", "close"),
    ]  # fmt: skip
    assert ns.sql("select name, status, result from @.updates order by requested_at") == [
        ("add_item", "completed", 2), ("add_item", "completed", 3), ("close", "completed", "closed"),
    ]  # fmt: skip
    assert ns.one("select count(*) from @.events") == 0


async def test_from_another_process_too(ns: Namespace) -> None:
    async with ns.engine(cart) as engine, ns.client() as client:
        h = await client.get((await engine.start(cart, id="c")).id)
        replies = await asyncio.gather(*(h.update("add_item", str(n), timeout=20) for n in range(20)))
        assert sorted(replies)[-1] == 20
        assert await h.update("close", timeout=20) == "closed"
        assert len(await h.result(timeout=20)) == 20


async def test_a_rejected_update_leaves_no_trace(ns: Namespace) -> None:
    async with ns.engine(cart) as engine:
        h = await engine.start(cart, 3)
        await h.update("add_item", "a", 2, timeout=20)
        before = ns.history(h, "*")
        for arguments, message in (
            (("add_item", "b", 2), "was rejected: at most 3 items"),
            (("add_item", "b", "many"), "does not fit its parameters"),
            (("add_item",), "missing required field `sku`"),
            (("no_such",), "It has 'add_item', 'close', 'fail'"),
        ):
            with pytest.raises(pgd.UpdateRejected, match=message):
                await h.update(*arguments, timeout=20)
        assert ns.history(h, "*") == before
        assert ns.one("select count(*) from @.events") == 0
        assert await h.update("add_item", "b", 1, timeout=20) == 3
        await h.update("close", timeout=20)
        await h.result(timeout=20)
    assert ran == ["a", "b"]


async def test_a_validator_sees_what_the_handler_will_find(ns: Namespace) -> None:
    """Ten at once for seven places: the requests are judged one by one, each after the one before it was delivered."""

    @pgd.workflow
    async def places() -> list:
        taken: list = []

        @pgd.on_update
        async def take(name: str) -> int:
            taken.append(name)
            await asyncio.sleep(0.001)
            return len(taken)

        @take.validator
        def free(name: str) -> None:
            if len(taken) >= 7:
                raise ValueError("full")

        await pgd.wait_signal("end")
        return taken

    async with ns.engine(places) as engine:
        h = await engine.start(places)
        found = await asyncio.gather(*(h.update("take", str(n), timeout=20) for n in range(10)), return_exceptions=True)
        assert sum(isinstance(each, pgd.UpdateRejected) for each in found) == 3
        await h.signal("end")
        assert len(await h.result(timeout=20)) == 7


async def test_what_a_handler_raises_the_sender_gets(ns: Namespace) -> None:
    async with ns.engine(cart) as engine:
        h = await engine.start(cart)
        with pytest.raises(pgd.UpdateFailed, match="LookupError: the handler's own") as failed:
            await h.update("fail", timeout=20)
        assert failed.value.type == "builtins.LookupError"
        assert "raise LookupError" in str(failed.value.traceback)
        assert await h.update("close", timeout=20) == "closed"


async def test_the_same_key_is_carried_out_once(ns: Namespace) -> None:
    async with ns.engine(cart) as engine, ns.client() as client:
        h = await engine.start(cart)
        other = await client.get(h.id)
        key = uuid.uuid4()
        replies = await asyncio.gather(
            *(each.update("add_item", "a", key=key, timeout=20) for each in (h, other, h, other))
        )
        assert replies == [1, 1, 1, 1]
        await h.update("close", timeout=20)
        await h.result(timeout=20)
        # The reply is there as long as the instance; a new request is not taken.
        assert await other.update("add_item", "a", key=key, timeout=20) == 1
        with pytest.raises(pgd.InvalidInput, match="is that of an update 'add_item', not 'close'"):
            await other.update("close", key=key, timeout=20)
        with pytest.raises(pgd.InstanceFinished, match="takes no more updates"):
            await other.update("add_item", "b", timeout=20)
    assert ran == ["a"]


async def test_the_workflow_completes_when_its_handlers_have(ns: Namespace) -> None:
    async with ns.engine(cart) as engine:
        h = await engine.start(cart)
        slow = asyncio.ensure_future(h.update("add_item", "slow", timeout=20))
        await until(lambda: "slow" in ran, "the handler's step runs")
        await h.update("close", timeout=20)
        assert await h.status() == "running"
        gate.set()
        assert await slow == 1
        assert await h.result(timeout=20) == {"slow": 1}


@pgd.workflow
async def fails_on_signal() -> None:
    @pgd.on_update
    async def never() -> None:
        await asyncio.sleep(1e6)

    await pgd.wait_signal("fail")
    raise ValueError("the workflow's own")


async def test_nobody_waits_for_ever_when_the_instance_ends(ns: Namespace) -> None:
    async with ns.engine(fails_on_signal) as engine, ns.client() as client:
        h = await engine.start(fails_on_signal)
        waiting = [asyncio.ensure_future(each.update("never", timeout=20)) for each in (h, await client.get(h.id))]
        await until(lambda: len(ns.history(h)) == 2, "both are accepted")
        await h.signal("fail")
        for each in waiting:
            with pytest.raises(pgd.UpdateFailed, match="the instance ended failed before it was done") as failed:
                await each
            assert failed.value.type is None
        assert [status for (status,) in ns.sql("select status from @.updates")] == ["accepted", "accepted"]


async def test_an_update_of_an_instance_that_waits_on_disk(ns: Namespace) -> None:
    async with ns.engine(cart, park_after=0.05) as engine:
        h = await engine.start(cart)
        await h.update("add_item", "a", timeout=20)
        await status_is(h, "waiting")
        assert await h.update("add_item", "b", timeout=20) == 2
        await status_is(h, "waiting")
        await h.update("close", timeout=20)
        assert await h.result(timeout=20) == {"a": 1, "b": 1}


async def test_an_update_before_any_worker_or_while_it_is_paused_is_kept(ns: Namespace) -> None:
    async with ns.client() as client:
        h = await client.start("talk_cart")
        key = uuid.uuid4()
        with pytest.raises(TimeoutError, match="with its key"):
            await h.update("add_item", "early", key=key, timeout=0.05)
        ns.sql("update @.instances set status = 'paused'")
        with pytest.raises(pgd.InstancePaused, match="ask again with the same key"):
            await h.update("add_item", "early", key=key, timeout=20)
        await h.resume()
        async with ns.engine(cart):
            assert await h.update("add_item", "early", key=key, timeout=20) == 1
            await h.update("close", timeout=20)
            assert await h.result(timeout=20) == {"early": 1}


# -- declared on the workflow ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Basket:
    items: dict[str, int]
    closed: bool = False


@pgd.workflow(name="talk_checkout")
async def checkout() -> int:
    basket = pgd.expose(Basket({}))
    await pgd.wait_until(lambda: basket.closed)
    return sum(basket.items.values())


@checkout.update
async def put(basket: Basket, sku: str, count: int = 1) -> Basket:
    basket.items[sku] = await reserve(sku, count)
    return basket


@put.validator
def _(basket: Basket, sku: str, count: int = 1) -> None:
    if basket.closed:
        raise ValueError("closed")


@checkout.update("close")
def close_basket(basket: Basket) -> None:
    basket.closed = True


async def test_handlers_declared_on_the_workflow_get_what_it_exposed(ns: Namespace) -> None:
    async with ns.engine(checkout, park_after=0.05) as engine:
        h = await engine.start(checkout)
        reply = await h.update(put, "a", 2, timeout=20)
        assert reply == Basket({"a": 2})
        await status_is(h, "waiting")
        with pytest.raises(pgd.InvalidInput, match="too many positional arguments"):
            await h.update(put, "a", 2, 3)
        assert await h.update(close_basket, timeout=20) is None
        assert await h.result(timeout=20) == 2


async def test_without_anything_exposed_it_is_rejected(ns: Namespace) -> None:
    @pgd.workflow
    async def bare() -> None:
        await pgd.wait_signal("end")

    @bare.update
    def change(state: Any) -> None: ...

    async with ns.engine(bare) as engine:
        h = await engine.start(bare)
        with pytest.raises(pgd.UpdateRejected, match="has not called pgdurable"):
            await h.update(change, timeout=20)


# -- `def` workflows -------------------------------------------------------------------------------------------------


@pgd.step
def slowly(n: int) -> int:
    return n


@pgd.workflow(name="talk_blocking")
def blocking() -> dict[str, Any]:
    items: list[int] = []
    closed = False

    @pgd.on_update
    def add(n: int) -> int:
        items.append(slowly(n))
        return sum(items)

    @pgd.on_update
    def wait_for(total: int) -> int:
        pgd.wait_until(lambda: sum(items) >= total)
        return sum(items)

    @pgd.on_update
    def close() -> None:
        nonlocal closed
        closed = True

    try:
        pgd.wait_until(lambda: closed, timeout=0.01)
    except TimeoutError:
        pass
    signal = pgd.wait_signal("go")
    pgd.wait_until(lambda: closed)
    return {"items": items, "signal": signal}


async def test_a_blocking_workflow_has_handlers_that_run_beside_it(ns: Namespace) -> None:
    async with ns.engine(blocking, park_after=0.3) as engine:
        h = await engine.start(blocking)
        waiting = asyncio.ensure_future(h.update("wait_for", 6, timeout=30))
        assert await h.update("add", 1, timeout=20) == 1
        await h.signal("go", "signal")
        assert await h.update("add", 2, timeout=20) == 3
        await status_is(h, "waiting")  # the handler that waits too
        assert await h.update("add", 3, timeout=20) == 6
        assert await waiting == 6
        await h.update("close", timeout=20)
        assert await h.result(timeout=20) == {"items": [1, 2, 3], "signal": "signal"}


async def test_encrypted_the_database_sees_neither_request_nor_reply(ns: Namespace) -> None:
    @pgd.workflow
    async def secretive() -> str:
        told = []

        @pgd.on_update
        def tell(secret: str) -> str:
            told.append(secret)
            return secret[::-1]

        @pgd.on_update
        def fail(secret: str) -> str:
            raise ValueError(secret)

        await pgd.wait_signal("end")
        return told[0]

    encryption = pgd.Encryption({"k": pgd.Encryption.new_key()}, plain="refuse")
    async with ns.engine(secretive, encryption=encryption, park_after=0.05) as engine:
        async with ns.client(encryption=encryption) as client:
            h = await client.get((await engine.start(secretive)).id)
            assert await h.update("tell", "swordfish", timeout=20) == "hsifdrows"
            with pytest.raises(pgd.UpdateFailed, match="swordfish"):
                await h.update("fail", "swordfish", timeout=20)
            await status_is(h, "waiting")
            await h.signal("end")
            assert await h.result(timeout=20) == "swordfish"
    for table in ("history", "updates", "events"):
        assert not ns.sql(f"select 1 from @.{table} t where t::text like '%swordfish%' or t::text like '%hsifdrows%'")


def test_blocking_code_asks_too(ns: Namespace) -> None:
    with pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=[cart]) as engine:
        h = engine.start(cart)
        assert h.update("add_item", "a", 2, timeout=20) == 2
        assert h.update("close", timeout=20) == "closed"
        assert h.result(20) == {"a": 2}


def test_wrong_declarations_are_refused() -> None:
    with pytest.raises(pgd.PgDurableError, match="outside workflow code"):
        pgd.on_update("x")
    with pytest.raises(ValueError, match="its handler is `def`"):

        @checkout.query
        async def asks(basket: Basket) -> None: ...

    @pgd.workflow
    def plain() -> None: ...

    with pytest.raises(ValueError, match="is `def` too"):

        @plain.update
        async def change(state: Any) -> None: ...


async def test_an_instance_that_continues_as_new_loses_no_update(ns: Namespace) -> None:
    @pgd.workflow(name="talk_again")
    async def again(total: int) -> int:
        busy = 0

        @pgd.on_update
        async def add(n: int) -> int:
            nonlocal total, busy
            busy += 1
            got = await reserve("a", n)
            total += got
            busy -= 1
            return total

        if await pgd.wait_signal("next") == "end":
            return total
        await pgd.wait_until(lambda: not busy)  # what it passes on is what they leave
        pgd.continue_as_new(total)

    async with ns.engine(again) as engine:
        h = await engine.start(again, 0)
        asked = []
        for _ in range(10):
            asked += [asyncio.ensure_future(h.update("add", 1, timeout=20)) for _ in range(3)]
            await h.signal("next")
        assert max(await asyncio.gather(*asked)) == 30
        await h.signal("next", "end")
        assert await h.result(timeout=20) == 30
