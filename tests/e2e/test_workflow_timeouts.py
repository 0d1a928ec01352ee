"""The time an instance has in all: what its code meets, clean-up, children, waiting, crashes, and where it is set."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from typing import Any

import psycopg
import pytest

import pgdurable as pgd

from .namespace import Namespace, status_is, until


async def timed_out(handle: Any) -> pgd.InstanceFailed:
    with pytest.raises(pgd.InstanceFailed) as failed:
        await handle.result(timeout=30)
    assert failed.value.status == "timed_out"
    assert failed.value.type == "pgdurable.errors.WorkflowTimeout"
    return failed.value


@pgd.step
async def tidy(what: str) -> str:
    return f"tidied {what}"


async def test_the_code_meets_it_and_may_clean_up(ns: Namespace) -> None:
    met: list[Any] = []

    @pgd.workflow(timeout=0.3)
    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as cancelled:
            met.append(cancelled.args[0])
            met.append(await tidy("up"))
            raise

    async with ns.engine(slow) as engine:
        h = await engine.start(slow)
        error = await timed_out(h)
        assert "workflow slow ran over its timeout" in str(error)
        assert isinstance(met[0], pgd.WorkflowTimeout)
        assert met[1] == "tidied up"
        assert [kind for kind, *_ in ns.history(h)] == ["deadline", "step"]
        (row,) = ns.sql("select id, deadline, finished_at, error ->> 'type' from @.timed_out")
        assert row[0] == h.instance_id
        assert row[1] <= row[2]
        assert ns.sql("select status from @.instances") == [("timed_out",)]
        info = await h.describe()
        assert (info.deadline - info.started_at).total_seconds() == pytest.approx(0.3, abs=0.001)


@pytest.mark.parametrize("how", ["deadline", "cancelled", "nothing said"])
@pytest.mark.parametrize("blocking", [False, True])
async def test_the_code_asks_why_wherever_it_waits(ns: Namespace, how: str, blocking: bool) -> None:
    """Also through a gather, where asyncio does not hand on what the cancellation was given; the same in replay."""
    met: list[Any] = []

    def why() -> None:
        found = pgd.current()
        met.append((found.timed_out, found.cancel_reason))

    @pgd.workflow(name="asks_why")
    async def asks() -> None:
        assert pgd.current().cancel_reason is None
        try:
            await asyncio.gather(asyncio.sleep(3600), pgd.wait_signal("never"))
        except asyncio.CancelledError:
            why()
            await pgd.wait_signal("go")
            raise

    @pgd.workflow(name="asks_why")
    def asks_blocking() -> None:
        try:
            pgd.sleep(3600)
        except asyncio.CancelledError:
            why()
            pgd.wait_signal("go")
            raise

    async with ns.engine(asks_blocking if blocking else asks) as engine:
        h = await engine.start("asks_why", timeout=0.3 if how == "deadline" else None)
        if how != "deadline":
            await until(lambda: ns.instance(h, "status = 'running'"), "it runs")
            await h.cancel("no more" if how == "cancelled" else None)
        await until(lambda: bool(met), "it has met it")
    async with ns.engine(asks_blocking if blocking else asks) as engine:
        h = await engine.get(h.id)
        await h.signal("go")
        with pytest.raises(pgd.InstanceFailed):
            await h.result(timeout=30)
    wanted = {"deadline": True, "cancelled": False, "nothing said": False}[how]
    assert [timed_out for timed_out, _ in met] == [wanted] * 2
    reasons = {reason for _, reason in met}
    if how == "deadline":
        assert len(reasons) == 1
        assert "ran over its timeout" in reasons.pop()
    else:
        assert reasons == {"no more" if how == "cancelled" else None}


async def test_code_that_ends_well_all_the_same_has_completed(ns: Namespace) -> None:
    @pgd.workflow(timeout=0.2)
    async def answers() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "what there is"
        return "all"

    async with ns.engine(answers) as engine:
        assert await (await engine.start(answers)).result(timeout=30) == "what there is"


async def test_within_its_time_nothing_happens(ns: Namespace) -> None:
    @pgd.workflow(timeout=60)
    async def quick() -> str:
        await asyncio.sleep(0.05)
        return "ok"

    async with ns.engine(quick) as engine:
        h = await engine.start(quick)
        assert await h.result(timeout=30) == "ok"
        assert [kind for kind, *_ in ns.history(h)] == ["timer"]
        await until(lambda: ns.instance(h, "deadline is not null"), "its deadline is noted")


async def test_a_running_step_is_stopped(ns: Namespace) -> None:
    stopped: list[bool] = []

    @pgd.step
    async def long() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    @pgd.workflow
    async def waits() -> None:
        await long()

    async with ns.engine(waits, poll_interval=0.1) as engine:
        await timed_out(await engine.start(waits, timeout=0.5))
        assert stopped == [True]


@pytest.mark.parametrize("how", ["client", "connection", "sync", "sql", "id"])
async def test_a_start_may_set_it(ns: Namespace, how: str) -> None:
    @pgd.workflow(name="waits", timeout=3600)
    async def waits() -> None:
        await pgd.wait_signal("never")

    half = dt.timedelta(seconds=0.5)
    async with ns.engine(waits, poll_interval=0.1) as engine, ns.client() as client:
        if how == "client":
            h: Any = await client.start("waits", timeout=half)
        elif how == "id":
            h = await engine.start(waits, id="mine", timeout=0.5)
            assert (await client.start("waits", id="mine", timeout=3600)).instance_id == h.instance_id
        elif how == "connection":
            async with await psycopg.AsyncConnection.connect(ns.dsn) as conn:
                h = await client.start("waits", connection=conn, timeout=0.5)
        elif how == "sync":
            with psycopg.connect(ns.dsn) as conn, pgd.sync.Client(ns.dsn, schema=ns.schema) as blocking:
                started = await asyncio.to_thread(blocking.start, "waits", connection=conn, timeout=0.5)
                conn.commit()
            h = await engine.get(started.id)
        else:
            h = await engine.get(ns.one("select @.with_timeout(@.start('waits'), '0.5 s')"))
        await timed_out(h)
        rows = ns.sql("select extract(epoch from deadline - created_at)::float8 from @.instances")
        assert rows == [(pytest.approx(0.5, abs=0.01),)]


def test_a_timeout_is_positive(ns: Namespace) -> None:
    with pytest.raises(ValueError, match="workflow f: timeout is positive, found 0"):

        @pgd.workflow(timeout=0)
        async def f() -> None: ...

    with pytest.raises(psycopg.Error, match=r"timeout of instance .* is not positive"):
        ns.sql("select @.with_timeout(@.start('w'), '0 s')")
    # And it changes nothing that was there before.
    id = ns.one("select @.start('w')")
    ns.sql("select @.with_timeout(%s, '1 s')", id)
    assert ns.sql("select deadline from @.instances") == [(None,)]


async def test_a_deadline_survives_the_engine_and_wakes_who_is_parked(ns: Namespace) -> None:
    @pgd.workflow
    async def waits() -> None:
        await pgd.wait_signal("never")

    async with ns.engine(waits, park_after=0.1, poll_interval=0.1) as engine:
        h = await engine.start(waits, timeout=2.5)
        await status_is(h, "waiting")
        deadline, wake_at = ns.sql("select deadline, wake_at from @.instances")[0]
        assert abs((wake_at - deadline).total_seconds()) < 0.001
    async with ns.engine(waits, park_after=0.1, poll_interval=0.1) as engine:
        await timed_out(await engine.get(h.id))
    assert ns.instance(h, "finished_at >= deadline")


async def test_time_that_ran_out_while_nobody_was_there(ns: Namespace) -> None:
    ran: list[int] = []

    @pgd.step
    async def once() -> None:
        ran.append(1)

    @pgd.workflow
    async def waits() -> None:
        await once()
        await pgd.wait_signal("never")

    engine = ns.engine(waits, poll_interval=0.1)
    await engine.open()
    h = await engine.start(waits, timeout=1.0)
    await until(lambda: ns.history(h), "its step is recorded")
    await engine.stop(drain=0)
    await engine.close()
    await until(lambda: ns.instance(h, "deadline < now()"), "the deadline has passed")
    async with ns.engine(waits, poll_interval=0.1) as engine:
        await timed_out(await engine.get(h.id))
    assert len(ran) == 1
    assert [kind for kind, *_ in ns.history(h)] == ["step", "deadline"]


async def test_clean_up_goes_on_after_a_crash(ns: Namespace) -> None:
    hang = [True]
    began: list[str] = []

    @pgd.step
    async def clean() -> str:
        began.append("clean")
        if hang[0]:
            await asyncio.sleep(3600)
        return "clean"

    @pgd.workflow(timeout=0.2)
    async def slow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await clean()

    engine = ns.engine(slow)
    await engine.open()
    h = await engine.start(slow)
    await until(lambda: began, "it cleans up")
    await engine.stop(drain=0)
    await engine.close()
    hang[0] = False
    async with ns.engine(slow) as engine:
        await timed_out(await engine.get(h.id))
    assert [kind for kind, *_ in ns.history(h)] == ["deadline", "step"]


async def test_children_are_cancelled(ns: Namespace) -> None:
    @pgd.workflow
    async def child() -> None:
        await pgd.wait_signal("never")

    @pgd.workflow
    async def parent() -> None:
        await child()

    async with ns.engine(child, parent, poll_interval=0.1) as engine:
        h = await engine.start(parent, timeout=1.0)
        await timed_out(h)
        await until(
            lambda: ns.sql("select status from @.instances where parent is not null") == [("cancelled",)],
            "the child is cancelled",
        )


async def test_a_def_workflow_meets_it_too(ns: Namespace) -> None:
    met: list[Any] = []
    go = threading.Event()

    @pgd.workflow(timeout=0.3)
    def slow() -> None:
        try:
            pgd.sleep(3600)
        except asyncio.CancelledError as cancelled:
            met.append(type(cancelled.args[0]))
            met.append(tidy("up"))
            raise
        finally:
            go.set()

    async with ns.engine(slow) as engine:
        await timed_out(await engine.start(slow))
    assert go.is_set()
    assert met == [pgd.WorkflowTimeout, "tidied up"]


async def test_runs_that_continue_as_new_share_one_time(ns: Namespace) -> None:
    runs: list[int] = []

    @pgd.workflow(timeout=0.6)
    async def again(n: int) -> None:
        runs.append(n)
        await asyncio.sleep(0.05)
        await pgd.continue_as_new(n + 1)

    async with ns.engine(again) as engine:
        h = await engine.start(again, 0)
        await timed_out(h)
        assert ns.instance(h, "finished_at >= deadline")
    assert len(runs) > 1


async def test_a_retry_has_new_time(ns: Namespace) -> None:
    patient = [False]

    @pgd.step
    async def ask() -> str:
        if not patient[0]:
            await asyncio.sleep(3600)
        return "answer"

    @pgd.workflow(timeout=0.5)
    async def asks() -> str:
        try:
            return await ask()
        except asyncio.CancelledError:
            await tidy("up")
            raise

    async with ns.engine(asks, poll_interval=0.1) as engine:
        h = await engine.start(asks)
        await timed_out(h)
        patient[0] = True
        assert await h.retry()
        assert await (await engine.get(h.id)).result(timeout=30) == "answer"
