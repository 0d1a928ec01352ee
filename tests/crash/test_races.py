"""Races of the engine with its own takeover, and of a step's begin with its end, brought about on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest

import pgdurable as pgd
from pgdurable._engine.hosted import Hosted
from pgdurable._runtime.thread import ThreadMachine


@pgd.step
async def quick() -> None:
    await asyncio.sleep(0)


async def fickle() -> str:
    await pgd.wait_signal("begin")
    task = asyncio.ensure_future(quick())
    await pgd.wait_signal("leave")
    task.cancel()
    await asyncio.wait([task])
    await pgd.wait_signal("end")
    return "done"


async def patient() -> Any:
    await quick()
    return await pgd.wait_signal("end")


WORKFLOWS = [pgd.Workflow(fickle), pgd.Workflow(patient)]


async def until(condition: Callable[[], Coroutine[Any, Any, Any]], what: str) -> Any:
    async def wait() -> Any:
        while True:
            if found := await condition():
                return found
            await asyncio.sleep(0.01)

    try:
        return await asyncio.wait_for(wait(), 20)
    except asyncio.TimeoutError:
        pytest.fail(f"not within 20 s: {what}")


def make_engine(dsn: str, schema: str, **options: Any) -> pgd.Engine:
    return pgd.Engine(dsn, schema=schema, workflows=WORKFLOWS, migrate=True, **options)


async def rows(engine: pgd.Engine, text: str, *args: Any) -> list[Any]:
    async with engine._pool.connection() as conn:
        cursor = await conn.execute(text.replace("@", engine.schema), args or None)
        return await cursor.fetchall()


async def take_over(engine: pgd.Engine) -> int:
    """Has another worker take this one over and claim all it had; returns that worker's id."""
    host = engine._worker.host
    assert host is not None
    ((heir,),) = await rows(engine, "select @.join_worker('heir', '[]', '1 hour')")

    async def taken() -> bool:
        # Again while the dead worker is in the middle of a commit.
        found = await rows(
            engine, "select @.take_over(id, beat, %s) from @.workers where id = %s", heir, host.worker
        )  # fmt: skip
        return bool(found[0][0])

    await until(taken, "the takeover")
    await rows(
        engine, "select id from @.claim(%s, '{fickle,patient}', '{1,1}', '{t,t}', 1000)", heir
    )  # fmt: skip
    return int(heir)


async def rejoined(engine: pgd.Engine, old: int) -> None:
    async def again() -> bool:
        host = engine._worker.host
        return host is not None and host.worker != old and not host.fenced

    await until(again, "the worker joins anew")


async def test_step_cancelled_in_the_turn_it_began_leaves_nothing_behind(dsn: str, schema: str) -> None:
    async with make_engine(dsn, schema, park_after=0.1) as engine:
        pass
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        cursor = await conn.execute(f"select {schema}.start('fickle')")
        ((id,),) = await cursor.fetchall()
        # Both signals there before the worker looks: they are recorded in one flush and delivered in one turn.
        await conn.execute(f"select {schema}.signal(%s, 'begin'), {schema}.signal(%s, 'leave')", (id, id))
    async with make_engine(dsn, schema, park_after=0.1) as engine:

        async def parked() -> bool:
            return bool(await rows(engine, "select 1 from @.instances where status = 'waiting'"))

        # It waits for a signal and runs no step; so it leaves memory.
        await until(parked, "the instance is parked")
        assert engine.metrics()["steps_running"] == 0
        handle = await engine.get(id)
        await handle.signal("end")
        assert await handle.result(timeout=20) == "done"
    names = [name async for name in _names(dsn, schema, id)]
    assert names == ["begin", "leave", "end"]


async def _names(dsn: str, schema: str, id: str) -> Any:
    async with pgd.Client(dsn, schema=schema) as client:
        async for entry in (await client.get(id)).history():
            if entry.kind in ("step", "signal"):
                yield entry.name


async def test_claim_of_a_dead_incarnation_is_not_taken_in(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between a claim and its replay, taken over, continued: the instances are the successor's."""
    async with make_engine(dsn, schema) as engine:
        poller, host = engine._worker.poller, engine._worker.host
        assert host is not None
        took, late = poller._intake._take_in, asyncio.Event()

        async def slow(*args: Any) -> None:
            if not late.is_set():
                old = host.worker
                await take_over(engine)
                host.on_fenced()
                await rejoined(engine, old)
                late.set()
            await took(*args)

        monkeypatch.setattr(poller._intake, "_take_in", slow)
        async with pgd.Client(dsn, schema=schema) as client:
            handle = await client.start("patient")
        await asyncio.wait_for(late.wait(), 20)
        polls = poller.polls

        async def polled() -> bool:
            return poller.polls > polls + 1

        await until(polled, "the poller is through")
        assert not host.instances
        assert await rows(engine, "select 1 from @.history where instance_id = %s", handle.instance_id) == []


async def test_outcome_is_not_settled_by_the_next_incarnation(dsn: str, schema: str) -> None:
    """A commit's connection broke, and before anybody could ask for its outcome the worker was taken over."""
    async with make_engine(dsn, schema) as engine:
        host = engine._worker.host
        assert host is not None
        handle = await engine.start("patient")
        hosted = host.instances[handle.instance_id.bytes]
        old = host.worker

        async def noted() -> bool:
            return bool(await rows(engine, "select 1 from @.history"))

        await until(noted, "its first step")
        await take_over(engine)
        host.on_fenced()
        await rejoined(engine, old)
        run: Any = SimpleNamespace(
            hosted=hosted, event_id=2, attempt=1, command=SimpleNamespace(seq=1, name="debit")
        )  # fmt: skip
        with pytest.raises(psycopg.Error) as refused:
            await host.transactions._checkpoints.outcome(run)
        assert refused.value.sqlstate == "PGD01"
        assert await rows(engine, "select kind from @.history where instance_id = %s", UUID(handle.id)) == [("step",)]


@pytest.mark.parametrize("lost", ["claim", "load_history"])
async def test_claim_whose_answer_was_lost_is_taken_up(dsn: str, schema: str, lost: str) -> None:
    """The connection breaks after the claim's commit: the instance is this worker's, which does not know it."""
    async with make_engine(dsn, schema) as engine:
        host, poller = engine._worker.host, engine._worker.poller
        assert host is not None
        whole, broken = poller._pool, asyncio.Event()

        class Breaking:
            """Connections of which one is lost once, after the server has done what it was asked."""

            async def getconn(self, timeout: float) -> Any:
                conn = await whole.getconn(timeout)
                return SimpleNamespace(execute=lambda *args, **kw: self.execute(conn, *args, **kw), whole=conn)

            async def putconn(self, conn: Any) -> None:
                await whole.putconn(conn.whole)

            async def execute(self, conn: Any, text: str, *args: Any, **kw: Any) -> Any:
                cursor = await conn.execute(text, *args, **kw)
                if text == poller._sql[lost] and cursor.rowcount + (lost != "claim") > 0 and not broken.is_set():
                    broken.set()
                    raise psycopg.OperationalError("the connection is lost")
                return cursor

        poller._pool = Breaking()  # type: ignore[assignment]
        async with pgd.Client(dsn, schema=schema) as client:
            handle = await client.start("patient")
            await asyncio.wait_for(broken.wait(), 20)
            await handle.signal("end", 1)
            assert await handle.result(timeout=10) == 1


@pytest.mark.parametrize("then", ["ends", "asks for a step"])
async def test_blocking_workflow_is_not_parked_before_its_burst_is_seen(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """The sweep comes by when the workflow's thread has ended, or asked for a step, and nobody has looked yet."""
    swept = False

    def blocking() -> str:
        pgd.wait_signal("end")
        if then == "asks for a step":
            quick()
        return "done"

    def swept_first(label: object, title: str, seed: bytes, started_us: int, body: Any, waits: Any) -> ThreadMachine:
        hosted: Hosted = waits.__self__

        def late() -> None:
            nonlocal swept
            if hosted.machine.outcome is not None or hosted.machine.issued:
                swept = True
                hosted.host.parking._idle[hosted.id] = hosted
                hosted.idle_since = 0.0
                hosted.host.park_idle()
            hosted.thread_idle()

        return ThreadMachine(
            label, title, seed, started_us, body, lambda: hosted.host.loop.call_soon_threadsafe(late)
        )  # fmt: skip

    monkeypatch.setattr("pgdurable._engine.host.ThreadMachine", swept_first)
    workflow: pgd.Workflow[..., str] = pgd.Workflow(blocking)
    async with pgd.Engine(dsn, schema=schema, workflows=[workflow], migrate=True) as engine:
        handle = await engine.start(workflow)
        await handle.signal("end")
        assert await handle.result(timeout=10) == "done"
    assert swept
