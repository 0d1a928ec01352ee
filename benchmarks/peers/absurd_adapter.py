"""absurd: workers that spawn tasks and work them off, each over a connection of its own.

Chosen in its favour: no waiting for a poll (a caller spawns ten tasks, then claims a batch of ten), a connection per
caller, tables without partitions. Its schema is the one that its command line tool, `absurdctl`, brings along.
"""

from __future__ import annotations

import time
from array import array
from importlib.metadata import version
from typing import Any

import absurd_sdk
import absurdctl
import psycopg

from benchmarks.peers.callers import in_threads, on_a_loop

VERSION = version("absurd-sdk")
WARM_MODE = "threads"
STEPS = 10
BATCH = 10
QUEUE = "bench"
_dsn = ""
_latencies = array("f")
_clients: list[absurd_sdk.Absurd] = []


def _add_one(n: int) -> int:
    return n + 1


def ten_steps(params: Any, ctx: absurd_sdk.TaskContext) -> int:
    n: int = params["n"]
    for _ in range(STEPS):
        began = time.perf_counter()
        n = ctx.step("add_one", lambda n=n: _add_one(n))  # type: ignore[misc]
        _latencies.append(time.perf_counter() - began)
    return n


async def ten_steps_async(params: Any, ctx: absurd_sdk.AsyncTaskContext) -> int:
    n: int = params["n"]

    async def add_one() -> int:
        return _add_one(n)

    for _ in range(STEPS):
        began = time.perf_counter()
        n = await ctx.step("add_one", add_one)
        _latencies.append(time.perf_counter() - began)
    return n


def open(dsn: str, number: int) -> None:
    global _dsn
    _dsn = dsn
    if number == 0:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(absurdctl.BUNDLED_SCHEMA_SQL)
            conn.execute("select absurd.create_queue(%s)", (QUEUE,))


def run(mode: str, concurrency: int, until: float, latencies: array[float]) -> None:
    global _latencies
    _latencies = latencies

    def caller(client: absurd_sdk.Absurd) -> None:
        while time.perf_counter() < until:
            for _ in range(BATCH):
                client.spawn("ten_steps", {"n": 0})
            client.work_batch(batch_size=BATCH)

    async def async_caller() -> None:
        client = absurd_sdk.AsyncAbsurd(_dsn, queue_name=QUEUE)
        client.register_task("ten_steps")(ten_steps_async)
        while time.perf_counter() < until:
            for _ in range(BATCH):
                await client.spawn("ten_steps", {"n": 0})
            await client.work_batch(batch_size=BATCH)
        await client.close()

    if mode == "async":
        on_a_loop(async_caller, concurrency)
        return
    while len(_clients) < concurrency:
        client = absurd_sdk.Absurd(_dsn, queue_name=QUEUE)
        client.register_task("ten_steps")(ten_steps)
        _clients.append(client)
    in_threads(caller, _clients[:concurrency])


def close() -> None:
    for client in _clients:
        client.close()
