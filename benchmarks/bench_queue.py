"""How long from a start in a queue to the workflow's code running, and what an idle worker asks meanwhile?

From the call of `start` by a client here to the first line of the code in a worker process, one at
a time: the start's commit, the hint, the look that lets the instance go, the claim's commit, the history's loading. By
what the queue has set: nothing, limits, limits and a rate and partitions. `polling` is the same where no notification
comes, as behind a pooler: a look each `poll_interval`, so half of that on average, and hardly more than all of it.

Beside: a bare NOTIFY from one connection until another that listens has it. A NOTIFY stores nothing, so this is a
floor. Figure and floor take turns; `two_commits` says what two bare commits took right after.

`idle` counts transactions on the server, by its own statistics, while a worker with queues has nothing to do.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from benchmarks.bench_signal import Notify
from benchmarks.figures import curve, latency
from benchmarks.lab import Lab
from benchmarks.worker import Worker
from benchmarks.workflows import WORKFLOWS

TURNS = 10
IN_A_TURN = 30
POLL_INTERVAL_S = 0.2
POLLED = 60
IDLE_S = 10.0
PATIENCE_S = 60.0

LIMITS: dict[str, dict[str, Any]] = {
    "nothing_set": {},
    "concurrency": {"concurrency": 100},
    "everything": {"concurrency": 100, "partition_concurrency": 50, "rate": (100_000, 1), "worker_concurrency": 80},
}


async def start_one(client: pgd.Client, worker: Worker, number: int, queue: str) -> float:
    """Seconds from the call of start to its code's running."""
    began = time.time()
    await client.start("bench_queued", number, queue=queue, partition=str(number % 3))
    [[_, at]] = worker.ask("woken", number=1, limit=PATIENCE_S)
    return float(at) - began


@pytest.mark.parametrize("limits", LIMITS)
def bench_hint(benchmark: Any, lab: Lab, limits: str) -> None:
    turns = 2 if lab.short else TURNS
    lab.calm()
    floor: list[float] = []
    took: list[float] = []

    async def all_turns() -> None:
        async with pgd.Client(lab.dsn, schema=lab.schema) as client:
            if LIMITS[limits]:
                await client.queues.set("bench", **LIMITS[limits])
            for turn in range(turns + 1):  # the first is the warm-up
                bare = notify.deliver(IN_A_TURN)
                mine = [await start_one(client, worker, n, "bench") for n in range(IN_A_TURN)]
                if turn:
                    floor.extend(bare)
                    took.extend(mine)

    with Notify(lab.dsn) as notify, Worker(lab.dsn, lab.schema) as worker:
        benchmark.pedantic(lambda: lab.run(all_turns()), rounds=1, iterations=1)
        commits = notify.commit(100)
    one, bare = latency(took), latency(floor)
    name = f"queue.to_running.{limits}"
    lab.figure(f"{name}.two_commits", 2 * latency(commits).p50_ms, "ms", note="the part of it that is the disk's")
    lab.figure(
        name, one.p50_ms, "ms", latency=one, beside=("bare NOTIFY", bare.p50_ms),
        note=f"median of {one.count} starts, one at a time, in another process",
        series={"start": curve(took), "bare NOTIFY": curve(floor)}, bare_p99_ms=bare.p99_ms,
    )  # fmt: skip


def bench_polling(benchmark: Any, lab: Lab) -> None:
    number = 10 if lab.short else POLLED
    chance = random.Random(1)
    lab.calm()

    async def all_turns() -> list[float]:
        async with pgd.Client(lab.dsn, schema=lab.schema) as client:
            await client.queues.set("bench", concurrency=100)
            took = []
            for n in range(number):
                # At any moment of the interval: a worker looks at once when an instance of the queue has ended.
                await asyncio.sleep(chance.uniform(1, 2) * POLL_INTERVAL_S)
                took.append(await start_one(client, worker, n, "bench"))
            return took

    with Worker(lab.dsn, lab.schema, pooler=True, poll_interval=POLL_INTERVAL_S) as worker:
        took = benchmark.pedantic(lambda: lab.run(all_turns()), rounds=1, iterations=1)
    one = latency(took)
    lab.figure(
        "queue.to_running.polling", one.p50_ms, "ms", latency=one, beside=("half an interval", POLL_INTERVAL_S * 500),
        note=f"median of {one.count} starts, without notifications, a look each {POLL_INTERVAL_S * 1e3:g} ms",
        params={"poll_interval": POLL_INTERVAL_S},
    )  # fmt: skip
    assert one.p99_ms < 10 * POLL_INTERVAL_S * 1e3


def bench_idle(benchmark: Any, lab: Lab) -> None:
    seconds = 2.0 if lab.short else IDLE_S
    counted = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"

    async def idle() -> tuple[float, float]:
        async with lab.engine(WORKFLOWS) as engine:
            await engine.queues.set("bench", concurrency=10, rate=(100, 60))
            await engine.start("bench_queued", 1, queue="bench", delay=3600)
            await asyncio.sleep(3.0)  # what a worker does when it has just begun is no part of it
            with psycopg.connect(lab.dsn, autocommit=True) as conn:
                first, began = _count(conn, counted), time.perf_counter()
                await asyncio.sleep(seconds)
                last, took = _count(conn, counted), time.perf_counter() - began
            return (last - first - 1) / took, took

    rate, took = benchmark.pedantic(lambda: lab.run(idle()), rounds=1, iterations=1)
    lab.figure(
        "queue.idle", rate, "transactions a second",
        note=f"of all a worker does, over {took:.0f} s, with queues that have settings and nothing due",
    )  # fmt: skip


def _count(conn: psycopg.Connection[Any], query: str) -> int:
    conn.execute("select pg_stat_force_next_flush()" if conn.info.server_version >= 150000 else "select 1")
    row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])
