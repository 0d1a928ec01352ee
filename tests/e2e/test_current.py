"""`current` and `logger`: what running code knows of itself, live and in replay."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import pgdurable as pgd
from pgdurable.errors import PgDurableError

from .namespace import Namespace, until

log = pgd.get_logger("shop")


@pgd.step
async def look() -> int:
    return 1


@pgd.workflow(name="current_child")
async def child() -> str | None:
    await look()
    found = pgd.current()
    await pgd.wait_signal("go")
    return str(found.parent) if found.parent == pgd.current().parent else "changed"


@pgd.workflow(name="current_flow", version="7")
async def flow() -> list[Any]:
    first = pgd.current()
    log.info("began %s", 1, extra={"mine": 5})
    await look()
    log.warning("looked")
    await pgd.wait_signal("go")
    log.info("went on")
    again = pgd.current()
    assert first.__dict__ | {"replaying": 0} == again.__dict__ | {"replaying": 0}
    return [
        first.id,
        str(first.instance_id),
        first.workflow,
        first.version,
        first.labels,
        str(first.parent),
        first.step,
    ]


async def test_current_is_the_same_in_replay_and_the_logger_silent(
    ns: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shop")
    async with ns.engine(flow) as engine:
        handle = await engine.start(flow, id="mine", labels={"tenant": 7})
        await until(lambda: ns.history(handle), "it waits")
    async with ns.engine(flow) as engine:
        again = await engine.get("mine")
        await again.signal("go")
        assert await again.result(30) == [
            "mine", str(handle.instance_id), "current_flow", "7", {"tenant": 7}, "None", None,
        ]  # fmt: skip
    records = [record for record in caplog.records if record.name == "shop"]
    assert [record.getMessage() for record in records] == ["began 1", "looked", "went on"]
    assert {(r.instance, r.workflow) for r in records} == {("mine", "current_flow")}  # type: ignore[attr-defined]
    assert records[0].mine == 5  # type: ignore[attr-defined]


async def test_a_child_knows_its_parent_live_and_in_replay(ns: Namespace) -> None:
    @pgd.workflow(name="current_parent")
    async def parent() -> str | None:
        return await child()

    async with ns.engine(parent, child) as engine:
        handle = await engine.start(parent)
        await until(lambda: ns.sql("select 1 from @.history where kind = 'step'"), "the child waits")
    async with ns.engine(parent, child) as engine:
        (id,) = ns.sql("select id from @.instances where workflow = 'current_child'")[0]
        await engine.signal(str(id), "go")
        assert await (await engine.get(handle.id)).result(30) == str(handle.instance_id)


def test_outside(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PgDurableError, match="outside workflow code and steps"):
        pgd.current()
    pgd.logger.warning("plain")
    assert [record.getMessage() for record in caplog.records] == ["plain"]
    assert not hasattr(caplog.records[0], "instance")


async def test_a_step_knows_its_attempt(ns: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shop")
    seen: list[Any] = []

    @pgd.step(retry=pgd.Retry(initial=0.01))
    async def shaky() -> None:
        seen.append(pgd.current())
        log.info("tried")
        if len(seen) < 2:
            raise ValueError("again")

    @pgd.step
    def threaded() -> None:
        seen.append(pgd.current())

    @pgd.workflow(name="current_steps")
    async def steps() -> None:
        await shaky()
        await threaded()

    async with ns.engine(steps) as engine:
        handle = await engine.start(steps, id="mine")
        await handle.result(30)
    assert [(c.step, c.attempt, c.id, c.workflow) for c in seen] == [
        ("shaky", 1, "mine", "current_steps"), ("shaky", 2, "mine", "current_steps"),
        ("threaded", 1, "mine", "current_steps"),
    ]  # fmt: skip
    records = [record for record in caplog.records if record.name == "shop"]
    assert [(r.instance, r.step, r.attempt) for r in records] == [  # type: ignore[attr-defined]
        ("mine", "shaky", 1), ("mine", "shaky", 2),
    ]  # fmt: skip
