"""Cancellation: asyncio's own, made durable. The code meets a CancelledError where it waits."""

from __future__ import annotations

import asyncio

import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until

RAN: list[str] = []


@pgd.step
async def note(text: str) -> str:
    RAN.append(text)
    return text


@pgd.step
async def long(seconds: float = 60.0) -> str:
    RAN.append("begun")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        RAN.append("interrupted")
        raise
    return "done"


@pgd.workflow
async def cleans_up() -> str:
    try:
        return await long()
    finally:
        await note("cleaned")


@pgd.workflow
async def refuses() -> str:
    try:
        await pgd.wait_signal("never")
    except asyncio.CancelledError:
        return await note("went on")
    return "?"


@pgd.workflow
async def shields() -> str:
    inner = asyncio.ensure_future(long(0.3))
    try:
        return await asyncio.shield(inner)
    except asyncio.CancelledError:
        return "shielded: " + await inner


@pgd.workflow(name="cancelled_blocking")
def blocking() -> str:
    try:
        pgd.sleep(600)
    except asyncio.CancelledError:
        note("cleaned")
        raise
    return "?"


@pgd.workflow
async def group() -> str:
    async def one() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            await note("one")

    await asyncio.gather(one(), one())
    return "?"


ALL = (cleans_up, refuses, shields, blocking, group)


@pytest.fixture(autouse=True)
def forget() -> None:
    RAN.clear()


def ask(ns: Namespace, h: pgd.Handle, reason: str | None = "enough") -> None:
    assert ns.one("select @.request_cancel(%s, %s)", h.instance_id, reason)


async def cancelled(h: pgd.Handle) -> str:
    with pytest.raises(pgd.InstanceFailed) as failure:
        await h.result(timeout=20)
    assert failure.value.status == "cancelled"
    return str(failure.value)


async def test_a_running_step_is_interrupted_and_clean_up_is_durable(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(cleans_up)
        await until(lambda: RAN == ["begun"], "the step runs")
        ask(ns, h)
        assert "was cancelled: enough" in await cancelled(h)
    assert RAN == ["begun", "interrupted", "cleaned"]
    assert ns.history(h, "kind, name, payload") == [
        ("cancel", None, {"reason": "enough"}), ("step", "note", "cleaned")
    ]  # fmt: skip


async def test_code_may_refuse(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(refuses)
        ask(ns, h)
        assert await h.result(timeout=20) == "went on"


async def test_what_is_shielded_goes_on(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(shields)
        await until(lambda: RAN == ["begun"], "the step runs")
        ask(ns, h)
        assert await h.result(timeout=20) == "shielded: done"


async def test_a_def_workflow_is_cancelled_where_it_waits(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(blocking)
        ask(ns, h)
        await cancelled(h)
    assert RAN == ["cleaned"]


async def test_every_task_of_the_code_is_cancelled(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(group)
        ask(ns, h)
        await cancelled(h)
    assert RAN == ["one", "one"]


async def test_a_second_request_is_none(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(cleans_up)
        await until(lambda: RAN == ["begun"], "the step runs")
        for _ in range(5):
            ask(ns, h)
        await cancelled(h)
    assert RAN == ["begun", "interrupted", "cleaned"]
    assert not ns.one("select @.request_cancel(%s)", h.instance_id), "it has ended"


async def test_what_has_not_begun_is_cancelled_at_once(ns: Namespace) -> None:
    async with ns.client() as client:
        h = await client.start("cleans_up")
        ask(ns, h)
        assert "before it began: enough" in await cancelled(h)


async def test_a_parked_instance_is_woken_to_clean_up(ns: Namespace) -> None:
    async with ns.engine(*ALL, park_after=0.0) as engine:
        h = await engine.start(refuses)
        await status_is(h, "waiting")
        ask(ns, h)
        assert await h.result(timeout=20) == "went on"


async def test_replay_meets_the_request_at_the_same_place(ns: Namespace) -> None:
    async with ns.engine(*ALL) as engine:
        h = await engine.start(cleans_up)
        await until(lambda: RAN == ["begun"], "the step runs")
        ask(ns, h)
        await cancelled(h)
    ns.sql(
        "update @.instances set status = 'pending', wake_at = now(), finished_at = null, error = null where id = %s",
        h.instance_id,
    )
    RAN.clear()
    async with ns.engine(*ALL) as engine:
        await cancelled(pgd.Handle(engine, h.instance_id))
    assert RAN == []
