"""The same for blocking code: `pgdurable.sync`, and workflows that are plain `def`."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import psycopg
import pytest

import pgdurable as pgd

from .namespace import Namespace, until


@pgd.step(retry=pgd.Retry(max_attempts=3, initial=0.0))
def double(n: int) -> int:
    if n < 0:
        raise ValueError("negative")
    return 2 * n


@pgd.step
async def double_async(n: int) -> int:
    await asyncio.sleep(0)
    return 2 * n


threads: list[threading.Thread] = []


@pgd.workflow
def blocking(n: int) -> dict[str, Any]:
    threads.append(threading.current_thread())
    log: dict[str, Any] = {"steps": [double(n), double_async(n)]}
    before = pgd.now()
    pgd.sleep(0.05)
    log["slept"] = (pgd.now() - before).total_seconds() >= 0.05
    log["signal"] = pgd.wait_signal("go", timeout=60)
    try:
        pgd.wait_signal("never", timeout=0.05)
    except TimeoutError:
        log["timeout"] = True
    try:
        double(-1)
    except ValueError as error:
        log["error"] = [str(error), error.__cause__.attempt]
    log["id"] = str(pgd.uuid4())
    return log


def check(log: dict[str, Any], n: int) -> None:
    assert len(log.pop("id")) == 36
    assert log == {
        "steps": [2 * n, 2 * n], "slept": True, "signal": {"by": "ann"}, "timeout": True, "error": ["negative", 3],
    }  # fmt: skip


KINDS = ["step", "step", "timer", "timer", "attempt", "attempt", "step"]


def sync_engine(ns: Namespace, *workflows: Any, **options: Any) -> Any:
    return pgd.sync.Engine(ns.dsn, schema=ns.schema, workflows=workflows, **options)


def test_a_blocking_engine_runs_blocking_workflows(ns: Namespace) -> None:
    threads.clear()
    with sync_engine(ns, blocking) as engine:
        h = engine.start(blocking, 3, id="one")
        h.signal("go", {"by": "ann"})
        check(h.result(timeout=20), 3)
        assert (h.id, h.status(), engine.get("one").instance_id) == ("one", "completed", h.instance_id)
        entries = list(h.history())
        assert [e.kind for e in entries if e.kind != "signal"] == ["started", *KINDS, "completed"]
        assert engine.metrics()["steps_done"] >= 3
    assert threads[0].name.startswith("workflow instance ")


async def test_a_def_workflow_runs_under_the_async_engine_too(ns: Namespace) -> None:
    async with ns.engine(blocking) as engine:
        handles = [await engine.start(blocking, n) for n in range(20)]
        for h in handles:
            await h.signal("go", {"by": "ann"})
        for n, h in enumerate(handles):
            check(await h.result(timeout=30), n)
            assert [kind for (kind,) in ns.history(h, "kind") if kind != "signal"] == KINDS


async def test_a_def_workflow_goes_on_in_another_engine(ns: Namespace) -> None:
    threads.clear()
    async with ns.engine(blocking) as engine:
        h = await engine.start(blocking, 2)
        await until(lambda: len(ns.history(h)) == 3, "it waits for its signal")
    await until(lambda: not threads[0].is_alive(), "its thread has ended with its engine")
    async with ns.engine(blocking, park_after=0.05) as engine:
        h = await engine.get(h.id)
        await until(lambda: len(threads) == 2 and ns.instance(h, "status") == "waiting", "replayed and parked")
        await h.signal("go", {"by": "ann"})
        check(await h.result(timeout=20), 2)
    await until(lambda: not any(thread.is_alive() for thread in threads), "no thread is left")
    assert len(threads) == 3


def test_a_blocking_engine_runs_async_workflows(ns: Namespace) -> None:
    @pgd.workflow
    async def gathers(n: int) -> list[int]:
        return await asyncio.gather(double(n), double_async(n))

    with sync_engine(ns, gathers) as engine:
        assert engine.start(gathers, 4).result(timeout=20) == [8, 8]


def test_a_blocking_client(ns: Namespace) -> None:
    with sync_engine(ns, blocking), pgd.sync.Client(ns.dsn, schema=ns.schema) as client:
        h = client.start("blocking", 5)
        client.signal(h.id, "go", {"by": "ann"})
        check(h.result(timeout=20), 5)
        assert [row.instance_id for row in client.list(status="completed", workflow="blocking")] == [h.instance_id]
        assert list(client.list(status="failed")) == []
        assert h.describe().output["timeout"] is True
        with pytest.raises(pgd.InstanceNotFound):
            client.get("nobody")
        with pytest.raises(pgd.InvalidId):
            client.start(blocking, 1, id="")


def test_start_many_blocking(ns: Namespace) -> None:
    @pgd.workflow
    def plus_one(n: int) -> int:
        return n + 1

    with sync_engine(ns, plus_one) as engine, pgd.sync.Client(ns.dsn, schema=ns.schema) as client:
        for face in (engine, client):
            handles = face.start_many(plus_one, range(100))
            assert [h.result(timeout=30) for h in handles] == list(range(1, 101))


def test_a_start_on_a_blocking_connection_is_there_only_if_it_commits(ns: Namespace) -> None:
    with sync_engine(ns, blocking) as engine, psycopg.connect(ns.dsn) as conn:
        engine.start(blocking, 1, connection=conn)
        engine.start(blocking, 1, id="mine", connection=conn)
        conn.rollback()
        assert ns.one("select count(*) from @.instances") + ns.one("select count(*) from @.instance_keys") == 0
        h = engine.start(blocking, 1, id="mine", connection=conn)
        assert ns.one("select count(*) from @.instances") == 0
        conn.commit()
        h.signal("go", {"by": "ann"})
        check(h.result(timeout=20), 1)


def test_errors_reach_blocking_code(ns: Namespace) -> None:
    @pgd.workflow
    def broken() -> None:
        double(-1)

    with sync_engine(ns, broken) as engine:
        with pytest.raises(pgd.InstanceFailed, match="negative"):
            engine.start(broken).result(timeout=20)
        with pytest.raises(TimeoutError, match="has not ended"):
            engine.start("nobody_knows_it").result(timeout=0.05)


def test_a_closed_blocking_engine_says_how_to_open_it(ns: Namespace) -> None:
    engine = sync_engine(ns, blocking)
    with pytest.raises(pgd.PgDurableError, match="this Engine is not open"):
        engine.start(blocking, 1)
    engine.open()
    engine.close()
    engine.close()
    with pytest.raises(pgd.PgDurableError, match="this Engine is not open"):
        engine.start(blocking, 1)


def test_opening_on_no_server_leaves_no_thread(tmp_path: Any) -> None:
    before = threading.active_count()
    with pytest.raises(pgd.ConnectionFailed):
        pgd.sync.Client(f"host={tmp_path}").open()
    assert threading.active_count() == before


def test_blocking_sleep_in_a_def_workflow_is_refused(ns: Namespace) -> None:
    @pgd.workflow
    def sleepy() -> None:
        time.sleep(0.01)

    with sync_engine(ns, sleepy) as engine:
        with pytest.raises(pgd.InstanceFailed, match=r"workflow code called time\.sleep"):
            engine.start(sleepy).result(timeout=20)


def test_outside_workflows_sleep_sleeps() -> None:
    before = time.monotonic()
    pgd.sleep(0.01)
    assert time.monotonic() - before >= 0.01
