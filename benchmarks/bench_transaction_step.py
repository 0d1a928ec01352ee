"""How many transaction steps a second: an UPDATE of a row of the user's own, committed with its checkpoint?

Callers run workflows of ten such steps, each caller on a row of its own, with as many connections for steps as there
are callers. Beside it: the bare UPDATE of the same rows, prepared, autocommit, through libpq itself, on as many
connections, each driven by a thread (libpq waits without the GIL). It has no checkpoint, no fence and no BEGIN.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from benchmarks.figures import latency, spread
from benchmarks.lab import Lab
from pgdurable.cli.bench_floor import bare_updates
from pgdurable.cli.bench_load import STEPS, Round, closed_loop, many_transactions

INSTANCES = {1: 100, 10: 600, 50: 1_000}


@pytest.mark.parametrize("concurrent", INSTANCES)
def bench_update_and_checkpoint(benchmark: Any, lab: Lab, concurrent: int) -> None:
    instances = lab.scaled(INSTANCES[concurrent])
    table = f"{lab.schema}.counters"
    lab.execute(
        f"create table {table} (id int primary key, n int not null)",
        f"insert into {table} select i, 0 from generate_series(0, 999) i",
    )
    floors: list[tuple[float, list[float]]] = []

    async def one(instances: int = instances) -> Round:
        async with lab.engine(max_connections=concurrent) as engine:
            return await closed_loop(
                engine, many_transactions, (STEPS, table), concurrent=concurrent, instances=instances, rows=1000
            )  # fmt: skip

    def connection(number: int) -> list[float]:
        with lab.bare() as bare:
            return bare_updates(bare, table, [number], instances * STEPS // concurrent)

    def floor() -> None:
        lab.execute(f"vacuum analyze {table}")
        with ThreadPoolExecutor(concurrent) as pool:
            began = time.perf_counter()
            parts = list(pool.map(connection, range(concurrent)))
            took = time.perf_counter() - began
        samples = [sample for part in parts for sample in part]
        floors.append((len(samples) / took, samples))

    lab.run(one(max(instances // 5, concurrent)))  # warm-up
    found = lab.rounds(benchmark, lambda: lab.run(one()), before=floor)
    best = max(found, key=lambda done: done.steps_per_s)
    bare_rate, bare_samples = max(floors)
    lab.figure(
        f"transaction_step.{concurrent}", best.steps_per_s, "steps/s", beside=("bare UPDATE", bare_rate),
        latency=latency(best.felt), note=f"best of {len(found)} rounds", params={"concurrent": concurrent},
        rounds=spread([done.steps_per_s for done in found]), bare_p99_ms=latency(bare_samples).p99_ms,
    )  # fmt: skip
