"""What workflow code sends to other instances: in the commit of its own record, once, whoever goes on after a crash."""

from __future__ import annotations

from typing import Any

import pytest

import pgdurable as pgd

from .namespace import Namespace


@pgd.workflow(name="sending_hears")
async def hears(n: int) -> list[Any]:
    return [await pgd.wait_signal("s") for _ in range(n)]


@pgd.workflow(name="sending_sends")
async def sends(id: str, n: int) -> str:
    for k in range(n):
        await pgd.signal(id, "s", k)
    return "sent"


@pgd.workflow(name="sending_sends_blocking")
def sends_blocking(id: str) -> str:
    pgd.signal(id, "s", "blocking")
    return "sent"


@pgd.workflow(name="sending_to_nobody")
async def to_nobody(id: str) -> str:
    try:
        await pgd.signal(id, "s")
    except pgd.PgDurableError as error:
        return str(error)
    return "?"


@pgd.workflow(name="sending_steers")
async def steers() -> list[Any]:
    one = await pgd.start_child(hears, 1)
    two = await pgd.start_child(hears, 1)
    await one.signal("s", "from above")
    await two.cancel("not needed")
    found: list[Any] = [await one.result()]
    try:
        await two.result()
    except pgd.InstanceFailed as error:
        found += [error.status, "not needed" in str(error)]
    await two.cancel("it has ended: that is no error")
    return found


ALL = (hears, sends, sends_blocking, to_nobody, steers)


async def test_signals_arrive_once_and_in_order(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(hears, 51, id="listener")
        s = await engine.start(sends, "listener", 50)
        assert await s.result(timeout=20) == "sent"
        await (await engine.start(sends_blocking, str(h.instance_id))).result(timeout=20)
        assert await h.result(timeout=20) == [*range(50), "blocking"]
    assert [kind for kind, *_ in ns.history(s)] == ["send"] * 50


async def test_what_was_sent_is_not_sent_again_in_replay_and_what_was_not_recorded_not_twice(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        await engine.start(hears, 3, id="listener")
        s = await engine.start(sends, "listener", 2)
        await s.result(timeout=20)
    # The record of the second is lost with the answer, the signal is not: its key tells.
    ns.sql("delete from @.history where kind = 'send' and seq = 1")
    ns.sql("update @.instances set status = 'pending', wake_at = now(), finished_at = null, output = null"
           " where id = %s", s.instance_id)  # fmt: skip
    async with ns.engine(*ALL) as engine:
        assert await pgd.Handle(engine, s.instance_id).result(timeout=20) == "sent"
        listener = await engine.get("listener")
        await listener.signal("s", "last")
        assert await listener.result(timeout=20) == [0, 1, "last"]


@pytest.mark.parametrize("ended", [False, True], ids=["not there", "ended"])
async def test_to_an_instance_that_takes_none(ns: Namespace, ended: bool) -> None:
    async with ns.engine(*ALL) as engine:
        if ended:
            await (await engine.start(hears, 0, id="nobody")).result(timeout=20)
        h = await engine.start(to_nobody, "nobody")
        told = await h.result(timeout=20)
        assert "signal to 'nobody'" in told
        assert ("has ended" if ended else "no instance") in told
    ns.sql("update @.instances set status = 'pending', wake_at = now(), finished_at = null, output = null"
           " where id = %s", h.instance_id)  # fmt: skip
    async with ns.engine(*ALL) as engine:
        assert await pgd.Handle(engine, h.instance_id).result(timeout=20) == told


async def test_a_parent_steers_its_children(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(steers)
        assert await h.result(timeout=20) == [["from above"], "cancelled", True]


async def test_encrypted(ns: Namespace) -> None:
    async with ns.engine(*ALL, encryption=pgd.Encryption({"k": pgd.Encryption.new_key()}, write="k")) as engine:
        assert (await (await engine.start(steers)).result(timeout=20))[0] == ["from above"]
        assert "by that id" in await (await engine.start(to_nobody, "some key")).result(timeout=20)
    assert ns.one("select count(*) from @.history where payload::text ~ 'from above'") == 0
