"""How many starts a second, made durable but not run here?

The engine has room for no instance (`max_instances=0`), so what is measured is the start alone: its row is committed
and left for other workers. (Starts that run at once are in bench_throughput, in every figure.) `start_many` is given
a list of tuples, and a structured numpy array.

Beside `start`, `start(id=...)` and `start_many`: the rows that were written, copied back by binary COPY into an empty
table with the same primary key, one connection, in commits of the engine's size (`start(id=...)`: of as many rows as
there are callers; `start_many`: of 20,000). Beside a start inside the caller's own transaction: bare one-row inserts of
the same rows, autocommit, on as many connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest

import pgdurable as pgd
from benchmarks.figures import latency, spread
from benchmarks.lab import Lab
from pgdurable._engine.ids import Ids
from pgdurable.cli.bench_floor import bare_starts, copy_instances_again, make_bare_tables, recorded_instances
from pgdurable.workflow import Workflow

STARTS = {"start": 20_000, "start_with_id": 3_000}
CALLERS = 100
MANY = 100_000
MANY_COMMIT = 20_000  # the most the engine puts into one commit
CONNECTIONS = 10
IN_TRANSACTIONS = 2_000


async def _order(number: int, sku: str) -> int:
    return number


order = Workflow(_order, name="bench_order")


async def callers(number: int, concurrent: int, call: Callable[[int], Awaitable[Any]]) -> tuple[float, list[float]]:
    """So many calls by so many callers: calls a second, and the seconds each took."""
    took: list[float] = []
    clock = time.perf_counter
    left = iter(range(number))

    async def caller() -> None:
        for n in left:
            began = clock()
            await call(n)
            took.append(clock() - began)

    began = clock()
    await asyncio.gather(*(caller() for _ in range(concurrent)))
    return number / (clock() - began), took


def best_copy(lab: Lab, per_commit: int) -> float:
    """Rows/s of the instances of the last round, copied back; the table of the engine is emptied."""
    with lab.bare() as bare:
        make_bare_tables(bare, lab.schema)
        rows = recorded_instances(bare, lab.schema)
        if per_commit == 1:
            rows = rows[:2_000]
        rate = len(rows) / sum(copy_instances_again(bare, lab.schema, rows, per_commit))
        bare.run(f"truncate {lab.schema}.instances, {lab.schema}.instance_keys")
    return rate


@pytest.mark.parametrize("how", STARTS)
def bench_one_by_one(benchmark: Any, lab: Lab, how: str) -> None:
    number = lab.scaled(STARTS[how])
    ceilings: list[float] = []

    async def one() -> tuple[float, list[float], float]:
        async with lab.engine([order], max_instances=0) as engine:
            if how == "start":
                rate, took = await callers(number, CALLERS, lambda n: engine.start(order, n, "sku-9"))
            else:
                rate, took = await callers(number, CALLERS, lambda n: engine.start(order, n, "sku-9", id=f"order/{n}"))
            metrics = engine.metrics()
            # Starts with an id commit beside the flush, in groups that the metrics do not tell.
            grouped = metrics["transitions"] / max(metrics["flushes"], 1) if how == "start" else CALLERS
            return rate, took, grouped

    lab.run(one())  # warm-up
    best_copy(lab, 100)
    found = lab.rounds(
        benchmark, lambda: lab.run(one()), before=lab.calm,
        after=lambda done: ceilings.append(best_copy(lab, max(round(done[2]), 1))),
    )  # fmt: skip
    rate, took, per_commit = max(found, key=lambda done: done[0])
    lab.figure(
        "start.one" if how == "start" else "start.with_id", rate, "starts/s",
        beside=("COPY of the same rows", max(ceilings)), latency=latency(took),
        note=f"{CALLERS} callers, best of {len(found)} rounds", params={"callers": CALLERS},
        rounds=spread([done[0] for done in found]), rows_per_commit=per_commit,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["list", "array"])
def bench_start_many(benchmark: Any, lab: Lab, how: str) -> None:
    number = lab.scaled(MANY)
    if how == "list":
        arguments: Any = [(n, "sku-9") for n in range(number)]
    else:
        arguments = np.zeros(number, [("number", "i8"), ("sku", "S5")])
        arguments["number"] = np.arange(number)
        arguments["sku"] = b"sku-9"
    ceilings: list[float] = []

    async def one() -> tuple[float, float]:
        async with lab.engine([order], max_instances=0) as engine:
            began = time.perf_counter()
            await engine.start_many(order, arguments)
            took = time.perf_counter() - began
            return number / took, took

    lab.run(one())  # warm-up
    best_copy(lab, MANY_COMMIT)
    found = lab.rounds(
        benchmark, lambda: lab.run(one()), before=lab.calm, after=lambda _: ceilings.append(best_copy(lab, MANY_COMMIT))
    )
    lab.figure(
        f"start.many.{how}", max(found)[0], "starts/s", beside=("COPY of the same rows", max(ceilings)),
        latency=latency([took for _, took in found]),
        note=f"{number:,} at once; the latency is of the whole call; best of {len(found)} rounds",
        rounds=spread([rate for rate, _ in found]),
    )  # fmt: skip


def bench_start_in_transaction(benchmark: Any, lab: Lab) -> None:
    number = lab.scaled(IN_TRANSACTIONS)
    floors: list[float] = []

    async def one() -> tuple[float, list[float]]:
        async with pgd.Client(lab.dsn, schema=lab.schema) as client:
            pool = [await psycopg.AsyncConnection.connect(lab.dsn, autocommit=True) for _ in range(CONNECTIONS)]
            free = pool.copy()

            async def start(n: int) -> None:
                conn = free.pop()
                try:
                    async with conn.transaction():
                        await client.start(order, n, "sku-9", connection=conn)
                finally:
                    free.append(conn)

            try:
                return await callers(number, CONNECTIONS, start)
            finally:
                for conn in pool:
                    await conn.close()

    def connection(_: int) -> None:
        ids = Ids(lambda: 0)
        with lab.bare() as bare:
            bare_starts(bare, lab.schema, [ids.new_id() for _ in range(number // CONNECTIONS)])

    def floor() -> None:
        with lab.bare() as bare:
            make_bare_tables(bare, lab.schema)
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            began = time.perf_counter()
            list(threads.map(connection, range(CONNECTIONS)))
            floors.append(number / (time.perf_counter() - began))
        lab.calm()

    async def register() -> None:
        async with lab.engine([order], max_instances=0):
            pass

    lab.run(register())
    lab.run(one())  # warm-up
    found = lab.rounds(benchmark, lambda: lab.run(one()), before=floor)
    rate, took = max(found)
    lab.figure(
        "start.in_transaction", rate, "starts/s", beside=("bare insert", max(floors)), latency=latency(took),
        note=f"{CONNECTIONS} connections, best of {len(found)} rounds", params={"connections": CONNECTIONS},
        rounds=spread([done[0] for done in found]),
    )  # fmt: skip
