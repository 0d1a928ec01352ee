"""Durable steps per second and the latency of one transition, beside a bare single-row insert. A minute or so.

    .venv/bin/python -m benchmarks.quick [--dsn DSN] [--rounds 3]

Without a DSN (--dsn or PGDURABLE_DSN) it runs an embedded server. Everything happens in a schema of its own, which is
dropped at the end.

What is measured: one engine in this process, one server on this machine. `concurrent` callers each start a workflow
of ten trivial steps, await its result, and start the next. A round's figure is steps / wall time, starts and ends
included; the best of the rounds is shown, since noise of the machine only ever takes away. The latencies are the
engine's own (`Engine.metrics`) of that round: from a transition's being recorded to its commit being known.
Transaction steps: the same with steps that update one row of the caller's own and commit it with their checkpoint.
The bare insert is one prepared statement of one row of the same columns and bytes, autocommit, one connection.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
import uuid
from contextlib import ExitStack
from typing import Any

import psycopg

import pgdurable as pgd

STEPS = 10
LOADS = {1: 300, 10: 1_500, 200: 6_000, 500: 8_000}  # concurrent callers -> instances in a round
TRANSACTION_LOADS = {1: 100, 10: 400, 100: 500}
INSERTS = 3_000


@pgd.step
async def work(n: int) -> int:
    return n + 1


@pgd.workflow(name="quick")
async def ten_steps(n: int) -> int:
    for _ in range(STEPS):
        n = await work(n)
    return n


@pgd.transaction
async def change(tx: psycopg.AsyncConnection[Any], table: str, row: int) -> int:
    await tx.execute(f"update {table} set n = n + 1 where id = %s", (row,))
    return row


@pgd.workflow(name="quick_transactions")
async def ten_transactions(row: int, table: str) -> int:
    for _ in range(STEPS):
        await change(table, row)
    return STEPS


def bare_insert(dsn: str, schema: str) -> dict[str, float]:
    """Latencies in milliseconds of committed one-row inserts into a table like `history`."""
    took = []
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create table if not exists {schema}.bare (like {schema}.history including all)")
        for n in range(INSERTS + 200):
            began = time.perf_counter()
            conn.execute(
                f"insert into {schema}.bare (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name,"
                " payload) values (%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb)",
                (uuid.uuid4(), 1, n, 12345, 0.02, 1, "step", "work", "7"),
                prepare=True,
            )
            took.append((time.perf_counter() - began) * 1e3)
    took = sorted(took[200:])
    return {"p50_ms": took[len(took) // 2], "p99_ms": took[len(took) * 99 // 100]}


async def one_round(
    dsn: str, schema: str, concurrent: int, instances: int, *, transactions: bool = False
) -> dict[str, Any]:
    left = instances

    async def caller(engine: pgd.Engine, number: int) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if transactions:
                handle = await engine.start(ten_transactions, number, f"{schema}.counters")
            else:
                handle = await engine.start(ten_steps, 0)
            result = await handle.result()
            if result != STEPS:
                raise SystemExit(f"instance {handle.id} gave {result}, expected {STEPS}")

    async with pgd.Engine(dsn, schema=schema, workflows=[ten_steps, ten_transactions]) as engine:
        began = time.perf_counter()
        await asyncio.gather(*(caller(engine, number) for number in range(concurrent)))
        took = time.perf_counter() - began
        return {"steps_per_s": instances * STEPS / took, **engine.metrics()}


def settings(dsn: str) -> dict[str, str]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        return {name: conn.execute("select current_setting(%s)", (name,)).fetchone()[0] for name in names}  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description="Durable steps/s and transition latency.")
    parser.add_argument("--dsn", default=os.environ.get("PGDURABLE_DSN"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    schema = f"quick_{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        dsn = options.dsn or stack.enter_context(pgd.embedded())
        print(", ".join(f"{name} {value}" for name, value in settings(dsn).items()))
        load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load before {load}")

        async def prepare() -> None:
            async with pgd.Engine(dsn, schema=schema, workflows=[ten_steps], migrate=True):
                pass
            await one_round(dsn, schema, 50, 500)  # warm-up

        asyncio.run(prepare())
        try:
            bare = min((bare_insert(dsn, schema) for _ in range(options.rounds)), key=lambda b: b["p50_ms"])
            print(f"\n{'concurrent':>10}  {'steps/s':>9}  {'p50 ms':>7}  {'p99 ms':>7}  transitions per commit")
            for concurrent, instances in LOADS.items():
                rounds = [asyncio.run(one_round(dsn, schema, concurrent, instances)) for _ in range(options.rounds)]
                best = max(rounds, key=lambda r: r["steps_per_s"])
                print(
                    f"{concurrent:>10}  {best['steps_per_s']:>9,.0f}  {best['p50_ms']:>7.2f}  {best['p99_ms']:>7.2f}"
                    f"  {best['transitions'] / max(best['flushes'], 1):>7.1f}"
                )
            print(
                f"bare insert {1000 / bare['p50_ms']:>8,.0f}  {bare['p50_ms']:>7.2f}  {bare['p99_ms']:>7.2f}      1.0"
            )
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute(f"create table {schema}.counters (id int primary key, n int not null)")
                conn.execute(f"insert into {schema}.counters select i, 0 from generate_series(0, 999) i")
            print(f"\n{'concurrent':>10}  transaction steps/s (an UPDATE of a row of one's own, and the checkpoint)")
            for concurrent, instances in TRANSACTION_LOADS.items():
                rounds = [
                    asyncio.run(one_round(dsn, schema, concurrent, instances, transactions=True))
                    for _ in range(options.rounds)
                ]
                print(f"{concurrent:>10}  {max(r['steps_per_s'] for r in rounds):>9,.0f}")
        finally:
            with psycopg.connect(dsn, autocommit=True) as conn:
                conn.execute("set client_min_messages = warning")
                conn.execute(f"drop schema {schema} cascade")


if __name__ == "__main__":
    main()
