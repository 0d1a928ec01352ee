"""A server that hangs: what waits, how much of it, who sees it; and that all of it is done in the end, once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest

import pgdurable as pgd

from .namespace import Namespace, until
from .proxy import Proxy

MOST = 40


@pgd.workflow
async def echo(n: int, text: str = "") -> int:
    return n


@pgd.step
async def double(n: int) -> int:
    return 2 * n


@pgd.workflow
async def listens(n: int) -> Any:
    first = await pgd.wait_signal("go")
    return [await double(n), first]


@contextmanager
def locked(ns: Namespace, table: str) -> Iterator[None]:
    """Nobody writes to the table until the block ends."""
    with psycopg.connect(ns.dsn) as conn:
        conn.execute(f"lock table {ns.schema}.{table} in exclusive mode")
        yield


def filled(engine: pgd.Engine, waiting: int) -> Any:
    """The poller's next claim may be waiting too."""
    return until(lambda: engine.metrics()["callers_waiting"] in (waiting, waiting + 1), f"{waiting} callers wait", 10)


def starts(ns: Namespace) -> list[int]:
    return [n for (n,) in ns.sql("select (@.whole(id, input) ->> 'n')::int from @.instances order by id")]


@pytest.mark.parametrize("size", [0, 2 * 1024 * 1024 // 3])
async def test_starts_wait_for_a_server_that_is_behind_and_none_is_lost(ns: Namespace, size: int) -> None:
    limit = MOST if not size else 10_000  # by count, or by bytes: 32 MiB
    done: list[int] = []
    async with ns.engine(echo, max_backlog=limit) as engine:

        async def start(n: int) -> Any:
            handle = await engine.start(echo, n, "x" * size)
            done.append(n)
            return handle

        with locked(ns, "instances"):
            calls = [asyncio.create_task(start(n)) for n in range(120)]
            await until(lambda: engine.metrics()["callers_waiting"] > 60, "callers wait")
            await asyncio.sleep(0.3)  # more of them would come in now, if the limit did not hold
            seen = engine.metrics()
            assert seen["backlog"] + seen["callers_waiting"] in (120, 121)  # perhaps with the poller's claim
            assert seen["backlog"] <= limit
            assert seen["backlog_bytes"] < 33 * 1024 * 1024 + 1024
            assert seen["starting"] == seen["backlog"]
            assert done == []
        handles = await asyncio.gather(*calls)
        assert sorted(done) == starts(ns) == list(range(120))
        assert done == list(range(120))
        assert [await h.result(timeout=60) for h in handles] == list(range(120))
        seen = engine.metrics()
        assert (seen["callers_waiting"], seen["starting"]) == (0, 0)
        assert seen["callers_waited"] >= 60


async def test_a_cancelled_start_that_waits_leaves_nothing_behind(ns: Namespace) -> None:
    async with ns.engine(echo, max_backlog=MOST) as engine:
        with locked(ns, "instances"):
            calls = [asyncio.create_task(engine.start(echo, n)) for n in range(200)]
            await filled(engine, 200 - MOST)
            for call in calls[100:150]:
                call.cancel()
            await filled(engine, 150 - MOST)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(found, asyncio.CancelledError) for found in results[100:150])
        assert starts(ns) == [*range(100), *range(150, 200)]
        assert len(await engine.start_many(echo, range(300))) == 300


async def test_a_network_that_stands_still(ns: Namespace) -> None:
    async with (
        Proxy(ns.dsn) as proxy,
        pgd.Engine(proxy.dsn, schema=ns.schema, workflows=[echo], max_backlog=MOST, lease=60) as engine,
    ):
        await engine.start(echo, 1000)
        proxy.stall()
        calls = [asyncio.create_task(engine.start(echo, n)) for n in range(500)]
        await filled(engine, 500 - MOST)
        proxy.stall(False)
        handles = await asyncio.gather(*calls)
        assert await handles[-1].result(timeout=30) == 499
    assert starts(ns) == [1000, *range(500)]


async def test_a_connection_lost_while_callers_wait(ns: Namespace) -> None:
    async with (
        Proxy(ns.dsn) as proxy,
        pgd.Engine(proxy.dsn, schema=ns.schema, workflows=[echo], max_backlog=MOST, lease=60) as engine,
    ):
        with locked(ns, "instances"):
            calls = [asyncio.create_task(engine.start(echo, n)) for n in range(200)]
            await filled(engine, 200 - MOST)
            proxy.drop()
            await until(lambda: engine.metrics()["trouble"], "it knows that it has no connection")
            await filled(engine, 200 - MOST)
            assert engine.metrics()["backlog"] == MOST
        await asyncio.gather(*calls)
    assert starts(ns) == list(range(200))


async def test_a_worker_taken_over_while_callers_wait(ns: Namespace) -> None:
    async with ns.engine(echo, max_backlog=MOST) as engine:
        worker = ns.one("select id from @.workers")
        with locked(ns, "instances"):
            calls = [asyncio.create_task(engine.start(echo, n)) for n in range(200)]
            await filled(engine, 200 - MOST)
        await until(
            lambda: ns.one("select coalesce(bool_or(@.take_over(id, beat, null)), false) from @.workers where id = %s",
                           worker), "it was taken over",
        )  # fmt: skip
        handles = await asyncio.gather(*calls)
        assert [await h.result(timeout=60) for h in handles] == list(range(200))
    assert starts(ns) == list(range(200))


async def test_a_stream_is_not_read_further_than_the_limit(ns: Namespace) -> None:
    asked: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(3000):
            asked.append(n)
            yield n

    async with ns.engine(echo, max_backlog=MOST) as engine:
        with locked(ns, "instances"):
            starting = asyncio.create_task(engine.start_many(echo, numbers()))
            await filled(engine, 1)
            assert engine.metrics()["backlog"] == MOST
            assert len(asked) <= 250
            rows = asyncio.create_task(engine.start_many(echo, {"n": np.arange(3000, 3100)}))
            await filled(engine, 2)
        assert (len(await starting), len(await rows)) == (3000, 100)
    assert sorted(starts(ns)) == list(range(3100))


async def test_signals_and_claims_wait_too_and_running_steps_go_on(ns: Namespace) -> None:
    async with ns.engine(echo, listens, max_backlog=MOST, poll_interval=0.05) as engine, ns.client() as client:
        handle, other = await engine.start(listens, 21), await engine.start(listens, 4)
        await handle.signal("go", "first")
        with locked(ns, "history"):
            # The flush with the signal's row hangs, and all that comes after it.
            await until(lambda: engine.metrics()["backlog"] > 0, "its signal is being recorded")
            calls = [asyncio.create_task(engine.start(echo, n)) for n in range(100)]
            await until(lambda: engine.metrics()["callers_waiting"] >= 100 - MOST, "callers wait")
            signal = asyncio.create_task(other.signal("go", "second"))
            dropped = asyncio.create_task(other.signal("dropped"))
            pending = await client.start(echo, 1000)
            await asyncio.sleep(0.3)  # six looks for work
            assert await pending.status() == "pending"
            assert not signal.done()
            assert ns.one("select count(*) from @.events where instance_id = %s", other.instance_id) == 0
            dropped.cancel()
        await asyncio.gather(*calls)
        await signal
        assert await handle.result(timeout=30) == [42, "first"]
        assert await other.result(timeout=30) == [8, "second"]
        assert await pending.result(timeout=30) == 1000
        assert [name for _, name, _ in ns.history(other)] == ["go", "double"]
        assert ns.one("select count(*) from @.events") == 0


async def test_an_id_that_somebody_holds_does_not_hold_up_other_starts(ns: Namespace) -> None:
    async with ns.engine(echo, max_backlog=MOST) as engine:
        with psycopg.connect(ns.dsn) as conn:
            conn.execute(f"select {ns.schema}.start('echo', '{{\"n\": 0}}', id => 'k0')")
            calls = [asyncio.create_task(engine.start(echo, n, id=f"k{n}")) for n in range(100)]
            await filled(engine, 100 - MOST)
            assert engine.metrics()["backlog"] >= MOST
            assert await (await engine.start(echo, 1000)).result(timeout=30) == 1000
            calls[99].cancel()
            conn.rollback()
        await asyncio.gather(*calls[:99])
        assert sorted(starts(ns)) == [*range(99), 1000]
        assert engine.metrics()["starting"] == 0


async def test_stopping_tells_everybody_who_waits(ns: Namespace) -> None:
    engine = ns.engine(echo, max_backlog=MOST)
    await engine.open()
    with locked(ns, "instances"):
        calls = [asyncio.create_task(engine.start(echo, n)) for n in range(100)]
        calls += [asyncio.create_task(engine.start(echo, n, id=f"k{n}")) for n in range(100)]
        calls.append(asyncio.create_task(engine.start_many(echo, range(10))))
        await filled(engine, 201 - 2 * MOST)
        await engine.stop(drain=0.1)
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
    assert {type(found) for found in results} == {pgd.PgDurableError}
    texts = {str(found).splitlines()[0] for found in results}
    assert texts == {
        "this Engine is stopping", "this Engine was stopped before the server acknowledged the start",
    }  # fmt: skip
    await engine.close()


async def test_the_backlog_is_in_the_workers_stats(ns: Namespace) -> None:
    async with ns.engine(echo, max_backlog=MOST, lease=0.4):

        async def told() -> Any:
            return ns.one("select stats from @.workers")

        stats = await until(told, "a beat")
        assert {"backlog", "backlog_bytes", "callers_waiting", "callers_waited", "instances", "steps_running",
                "flushes", "p99_ms", "reconnects", "trouble"} <= stats.keys()  # fmt: skip


def test_the_limit_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="max_backlog is at least 1, found 0"):
        pgd.Engine("", max_backlog=0)
