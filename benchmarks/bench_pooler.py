"""What does a pooler between engine and server cost?

Three engines on the same server and schema: directly, through PgBouncer 1.18 (no prepared statements: each flush brings
the texts of its statements along, and the server parses them), and through 1.24 (prepared). PgBouncer in transaction
mode with its default settings, over unix sockets as the direct connection is. They take turns, so that whatever the
machine does happens to all. Beside each figure: the direct engine's of the same turns.

A transition's latency is measured as in bench_transition.py, steps/s as in bench_throughput.py, transaction steps as in
bench_transaction_step.py. PgBouncer is one more process on the machine's cores.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

import pgdurable as pgd
from benchmarks import bench_transition
from benchmarks.figures import latency, spread
from benchmarks.lab import Lab
from pgdurable.cli.bench_load import STEPS, Round, closed_loop, many_steps, many_transactions
from tests.e2e.pgbouncer import PgBouncer, program

TURNS = 10
INSTANCES = 20  # of ten steps, in one turn of the idle measurement
LOAD = {1: 150, 100: 2_000}  # callers: instances in a round
ROUNDS = 4
CALLERS = 10  # of transaction steps
TRANSACTIONS = 300


class Ways:
    """The ways to the server, by name, as engines that are open for as long as the measurement takes."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self._lab = lab
        self._dsns = {"direct": lab.dsn}
        for name, prepared in (("1.18", False), ("1.24", True)):
            path = program(prepared=prepared)
            if path is None:
                pytest.skip("needs a PgBouncer before 1.21 and one since: scripts/setup_pgbouncer.sh")
            self._dsns[name] = stack.enter_context(PgBouncer(path, lab.dsn, default_pool_size=20)).dsn

    async def engines(self, stack: AsyncExitStack, **options: Any) -> dict[str, pgd.Engine]:
        return {
            name: await stack.enter_async_context(self._lab.engine([bench_transition.timed], dsn=dsn, **options))
            for name, dsn in self._dsns.items()
        }


def bench_idle(benchmark: Any, lab: Lab) -> None:
    samples: dict[str, list[float]] = {}

    async def one_by_one(engine: pgd.Engine) -> list[float]:
        bench_transition._transitions.clear()
        for _ in range(INSTANCES):
            await (await engine.start(bench_transition.timed, STEPS)).result()
        return list(bench_transition._transitions)

    async def all_turns(ways: Ways) -> None:
        async with AsyncExitStack() as stack:
            engines = await ways.engines(stack)
            for turn in range(lab.scaled(TURNS) + 1):
                for name, engine in engines.items():
                    found = await one_by_one(engine)
                    if turn:  # the first warms up
                        samples.setdefault(name, []).extend(found)

    with ExitStack() as stack:
        ways = Ways(lab, stack)
        benchmark.pedantic(lambda: lab.run(all_turns(ways)), rounds=1, iterations=1)
    direct = latency(samples["direct"])
    for name in ("1.18", "1.24"):
        found = latency(samples[name])
        lab.figure(
            f"pooler.idle.{name}", found.p50_ms, "ms", latency=found, beside=("direct", direct.p50_ms),
            note=f"median of {found.count:,} steps, in turns", direct_p99_ms=direct.p99_ms,
        )  # fmt: skip


@pytest.mark.parametrize("concurrent", LOAD)
def bench_throughput(benchmark: Any, lab: Lab, concurrent: int) -> None:
    async def one(engine: pgd.Engine) -> Round:
        return await closed_loop(
            engine, many_steps, (STEPS,), concurrent=concurrent, instances=lab.scaled(LOAD[concurrent], concurrent)
        )

    in_turns(benchmark, lab, f"pooler.throughput_{concurrent}", one)


def bench_transaction_step(benchmark: Any, lab: Lab) -> None:
    table = f"{lab.schema}.counters"
    lab.execute(
        f"create table {table} (id int primary key, n int not null)",
        f"insert into {table} select i, 0 from generate_series(0, 999) i",
    )

    async def one(engine: pgd.Engine) -> Round:
        instances = lab.scaled(TRANSACTIONS, CALLERS)
        return await closed_loop(
            engine, many_transactions, (STEPS, table), concurrent=CALLERS, instances=instances, rows=1000
        )

    in_turns(benchmark, lab, f"pooler.transaction_step_{CALLERS}", one)


def in_turns(benchmark: Any, lab: Lab, figure: str, one: Any) -> None:
    """Rounds of each way in turns. The best counts on all sides."""
    found: dict[str, list[Round]] = {}

    async def all_turns(ways: Ways) -> None:
        async with AsyncExitStack() as stack:
            engines = await ways.engines(stack)
            for turn in range(ROUNDS + 1):
                for name, engine in engines.items():
                    await asyncio.to_thread(lab.calm)
                    round = await one(engine)
                    if turn:
                        found.setdefault(name, []).append(round)

    with ExitStack() as stack:
        ways = Ways(lab, stack)
        benchmark.pedantic(lambda: lab.run(all_turns(ways)), rounds=1, iterations=1)
    best = {name: max(rounds, key=lambda done: done.steps_per_s) for name, rounds in found.items()}
    for name in ("1.18", "1.24"):
        lab.figure(
            f"{figure}.{name}", best[name].steps_per_s, "steps/s", beside=("direct", best["direct"].steps_per_s),
            latency=latency(best[name].felt), note=f"best of {ROUNDS} rounds, in turns",
            rounds=spread([done.steps_per_s for done in found[name]]),
            direct_p99_ms=latency(best["direct"].felt).p99_ms,
        )  # fmt: skip
