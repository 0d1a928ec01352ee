"""How many durable steps a second, and at what latency?

`concurrent` callers each start a workflow of ten trivial steps, await its result and start the next: closed loop, one
engine, which is worker and client in one process. Starts and ends of instances are in the time but not counted as
steps. The latencies are of `await step()` as workflow code sees it, of every step of the best round.

Beside it: the rows this very round wrote, copied back by binary COPY into empty tables with the same primary keys, in
commits of as many rows as the engine's had on average, over one connection. It has no workflows to run, no fence, no
end of an instance to update: a ceiling, not a rival. It is measured after each round; the best of its rounds counts,
as the best of the engine's does, since noise of the machine only ever takes away.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.figures import curve, latency, spread
from benchmarks.lab import Lab
from pgdurable.cli.bench_floor import copy_again, make_bare_tables, recorded_rows
from pgdurable.cli.bench_load import Round, closed_loop, many_steps

INSTANCES = {1: 300, 10: 1_500, 100: 4_000, 500: 8_000, 2000: 10_000}
KINDS = {
    # name: (arguments, callers, instances)
    "1_step": ((1,), 500, 30_000),
    "100_steps": ((100,), 500, 1_500),
    "def_steps": ((10, "def"), 100, 1_500),
    "100_bytes": ((10, "async", 100), 500, 6_000),
    "10_kilobytes": ((10, "async", 10_240), 500, 600),
}


def measure(benchmark: Any, lab: Lab, name: str, arguments: tuple[Any, ...], concurrent: int, instances: int) -> None:
    instances = lab.scaled(instances, max(concurrent, 20))
    ceilings: list[float] = []

    async def one() -> Round:
        async with lab.engine() as engine:
            return await closed_loop(engine, many_steps, arguments, concurrent=concurrent, instances=instances)

    def ceiling(done: Round) -> None:
        with lab.bare() as bare:
            make_bare_tables(bare, lab.schema)
            rows = recorded_rows(bare, lab.schema)
            commit = max(round(done.rows_per_commit), 1)
            if len(rows.history) > 2_000 * commit:
                rows = type(rows)(rows.instances[: 200 * commit], rows.history[: 2_000 * commit])
            ceilings.append(len(rows.history) / sum(copy_again(bare, lab.schema, rows, commit)))

    lab.run(one())  # warm-up
    lab.execute("truncate @.history, @.instances")
    found = lab.rounds(benchmark, lambda: lab.run(one()), before=lab.calm, after=ceiling)
    best = max(found, key=lambda done: done.steps_per_s)
    lab.figure(
        name, best.steps_per_s, "steps/s", beside=("COPY of the same rows", max(ceilings)), latency=latency(best.felt),
        note=f"best of {len(found)} rounds",
        params={"concurrent": concurrent, "steps": arguments[0], "kind": name.partition(".")[2]},
        series={"step": curve(best.felt)},
        rounds=spread([done.steps_per_s for done in found]), rows_per_commit=best.rows_per_commit,
        copies=best.metrics["copies"], flushes=best.metrics["flushes"],
        core_p50_ms=best.metrics["p50_ms"], core_p99_ms=best.metrics["p99_ms"],
    )  # fmt: skip


@pytest.mark.parametrize("concurrent", INSTANCES)
def bench_ten_steps(benchmark: Any, lab: Lab, concurrent: int) -> None:
    measure(benchmark, lab, f"throughput.{concurrent}", (10,), concurrent, INSTANCES[concurrent])


@pytest.mark.parametrize("kind", KINDS)
def bench_kinds(benchmark: Any, lab: Lab, kind: str) -> None:
    arguments, concurrent, instances = KINDS[kind]
    measure(benchmark, lab, f"throughput.{kind}", arguments, concurrent, instances)
