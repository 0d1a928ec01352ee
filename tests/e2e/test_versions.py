"""Versions of a workflow: old instances end on the old code while new ones start on the new."""

from __future__ import annotations

from typing import Any

import pytest

import pgdurable as pgd
from pgdurable.errors import InstancePaused

from .namespace import Namespace, status_is, until

ran: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    ran.clear()


@pgd.step
async def reserve(order: str) -> str:
    ran.append(f"reserve {order}")
    return order


@pgd.step
async def charge(order: str, how: str) -> str:
    ran.append(f"charge {order} {how}")
    return how


@pgd.workflow(name="versions_checkout", version="1")
async def checkout_v1(order: str) -> list[str]:
    await reserve(order)
    await pgd.wait_signal("paid")
    return ["v1", await charge(order, "card")]


@pgd.workflow(name="versions_checkout", version="2")
async def checkout(order: str) -> list[str]:
    await charge(order, "first")
    await pgd.wait_signal("paid")
    return ["v2", await reserve(order)]


async def waits(ns: Namespace, handle: Any) -> None:
    await until(lambda: ns.history(handle), f"{handle.id} waits for its signal")


async def test_old_instances_end_on_the_old_code_while_new_ones_start_on_the_new(ns: Namespace) -> None:
    async with ns.engine(checkout_v1) as engine:
        old = await engine.start("versions_checkout", "o-1", id="old")
        await waits(ns, old)
    async with ns.engine(checkout_v1, checkout) as engine:  # both, side by side in one process
        new = await engine.start("versions_checkout", "o-2", id="new")
        await waits(ns, new)
        old = await engine.get("old")
        for handle in (old, new):
            await handle.signal("paid")
        assert await old.result(30) == ["v1", "card"]
        assert await new.result(30) == ["v2", "o-2"]
    assert ran == ["reserve o-1", "charge o-2 first", "charge o-1 card", "reserve o-2"] or ran == [
        "reserve o-1", "charge o-2 first", "reserve o-2", "charge o-1 card",
    ]  # fmt: skip
    assert ns.sql("select k.id, i.version from @.instances i join @.instance_keys k on k.instance_id = i.id"
                  " order by 1") == [("new", "2"), ("old", "1")]  # fmt: skip


async def test_a_rolling_deploy_with_both_kinds_of_worker_at_once(ns: Namespace) -> None:
    """Workers with the old code alone and with the new code alone: each takes what it has, whoever asks."""
    async with ns.engine(checkout_v1) as before, ns.client() as client:
        old = [await before.start(checkout_v1, f"o-{n}") for n in range(5)]
        async with ns.engine(checkout) as after:
            new = [await after.start(checkout, f"n-{n}") for n in range(5)]
            by_name = [await client.start("versions_checkout", f"x-{n}") for n in range(6)]
            for handle in [*old, *new, *by_name]:
                await waits(ns, handle)
                await handle.signal("paid")
            assert {(await handle.result(30))[0] for handle in old} == {"v1"}
            assert {(await handle.result(30))[0] for handle in new} == {"v2"}
            for handle in by_name:  # whoever claimed it first called its own version current
                found = await handle.result(30)
                assert found[0] == f"v{ns.instance(handle, 'version')}"


async def test_the_last_old_worker_hands_over_and_nobody_takes_what_he_does_not_have(ns: Namespace) -> None:
    async with ns.engine(checkout_v1) as before:
        old = await before.start(checkout_v1, "o-1", id="old")
        await waits(ns, old)
    async with ns.engine(checkout) as after:
        handle = await after.get("old")
        await handle.signal("paid")
        new = await after.start(checkout, "n-1")
        await waits(ns, new)  # it does its work beside
        assert await handle.status() == "waiting"
        ((name, version, count),) = await after._database.rows("unknown_workflows", None) or [(None, None, None)]
        assert (name, version, count) == ("versions_checkout", "1", 1)
    async with ns.engine(checkout_v1) as again:
        assert await (await again.get("old")).result(30) == ["v1", "card"]
    assert ran.count("reserve o-1") == 1


async def test_code_that_no_longer_fits_pauses_and_the_old_code_goes_on(ns: Namespace) -> None:
    @pgd.workflow(name="versions_checkout", version="1")
    async def slipped(order: str) -> list[str]:
        await charge(order, "first")
        return ["slipped"]

    async with ns.engine(checkout_v1) as engine:
        handle = await engine.start(checkout_v1, "o-1", id="old")
        await waits(ns, handle)
    async with ns.engine(slipped) as engine:
        with pytest.raises(InstancePaused, match="first difference: event 1"):
            await (await engine.get("old")).result(30)
    async with ns.engine(checkout_v1) as engine:
        handle = await engine.get("old")
        assert await handle.resume() is True
        await handle.signal("paid")
        assert await handle.result(30) == ["v1", "card"]


async def test_an_instance_is_moved_to_another_version_by_a_fork(ns: Namespace) -> None:
    async with ns.engine(checkout_v1, checkout) as engine:
        old = await engine.start(checkout_v1, "o-1")
        await waits(ns, old)
        await old.terminate("goes on as version 2")
        await status_is(old, "cancelled")
        copy = await old.fork(version="2", from_event=1)
        await copy.signal("paid")
        assert await copy.result(30) == ["v2", "o-1"]
