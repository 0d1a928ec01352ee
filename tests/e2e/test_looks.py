"""What comes in before the place where a worker's looks begin is found all the same."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._engine import looks

from .namespace import Namespace, until


@pgd.workflow(name="awaits")
async def awaits() -> int:
    return await pgd.wait_signal("go", type=int)


@pgd.workflow(name="looks_nothing")
async def nothing() -> None: ...


@pytest.fixture(autouse=True)
def _looks_move_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_EVENTS_S", 0.0)
    monkeypatch.setattr(looks, "_LEAST_S", 0.5)


async def test_a_start_that_is_committed_late_is_found(ns: Namespace) -> None:
    async with ns.engine(nothing, poll_interval=0.05):
        await asyncio.sleep(0.3)
        ns.sql(
            "insert into @.instances (id, workflow, input, wake_at)"
            " values (@.new_id(), 'looks_nothing', '{}', now() - interval '1 hour')"
        )
        await until(lambda: ns.sql("select status from @.instances") == [("completed",)], "it has run", timeout=20)


async def test_a_signal_that_is_committed_late_is_found(ns: Namespace) -> None:
    async with ns.engine(awaits, poll_interval=0.05) as engine:
        late, early = await engine.start(awaits), await engine.start(awaits)
        with psycopg.connect(ns.dsn) as slow:
            slow.execute(f"select {ns.schema}.signal(%s, 'go', '1')", (str(late.instance_id),))
            await early.signal("go", 2)
            assert await early.result(timeout=20) == 2
            intake = engine._worker.poller._intake
            await until(lambda: intake.looks._after_event >= 2, "looks begin after both", timeout=20)
            slow.commit()
        assert await late.result(timeout=20) == 1


async def test_a_parked_instance_finds_a_signal_that_waited_for_long(ns: Namespace) -> None:
    async with ns.engine(awaits, park_after=0.1, poll_interval=0.05) as engine:
        handle = await engine.start(awaits)
        await until(lambda: ns.one("select status from @.instances") == "waiting", "it is parked")
    await handle_signal(ns, str(handle.instance_id))
    async with ns.engine(awaits, poll_interval=0.05):
        await until(lambda: ns.one("select status from @.instances") == "completed", "it has run", timeout=20)


async def handle_signal(ns: Namespace, id: str) -> None:
    async with ns.client() as client:
        await client.signal(id, "go", 3)
