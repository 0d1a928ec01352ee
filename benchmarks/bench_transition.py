"""How long does one transition take when nothing else goes on?

One instance at a time, one step after another. What is timed is the whole of `await step()` as workflow code sees it:
the step is dispatched, its (trivial) body runs, its result is committed, and the workflow has it in hand. That is the
longest of the ways one could measure it, and the one a user feels; the core's own histogram, from a result's being
recorded to its commit being known, is given beside (`core_p50_ms`).

Beside it: a prepared one-row insert of the same bytes through libpq itself, the server's floor. Floor and figure take
turns, a few hundred each, so that whatever the machine does happens to both.
"""

from __future__ import annotations

from typing import Any

from benchmarks.figures import curve, latency
from benchmarks.lab import Lab
from pgdurable.cli.bench_floor import bare_inserts, make_bare_tables
from pgdurable.cli.bench_load import closed_loop, many_steps

TURNS = 20
INSTANCES = 20  # of ten steps, in one turn


def bench_idle(benchmark: Any, lab: Lab) -> None:
    turns = 3 if lab.short else TURNS
    floor: list[float] = []
    felt: list[float] = []

    async def all_turns() -> dict[str, Any]:
        async with lab.engine() as engine:
            with lab.bare() as bare:
                make_bare_tables(bare, lab.schema)
                bare_inserts(bare, lab.schema, 200)
                await closed_loop(engine, many_steps, (10,), concurrent=1, instances=INSTANCES)
                for _ in range(turns):
                    floor.extend(bare_inserts(bare, lab.schema, INSTANCES * 10))
                    done = await closed_loop(engine, many_steps, (10,), concurrent=1, instances=INSTANCES)
                    felt.extend(done.felt)
                return done.metrics

    metrics = benchmark.pedantic(lambda: lab.run(all_turns()), rounds=1, iterations=1)
    one, bare = latency(felt), latency(floor)
    lab.figure(
        "transition.idle", one.p50_ms, "ms", latency=one, beside=("bare insert", bare.p50_ms),
        note=f"median of {one.count} steps, {turns} turns of each",
        series={"step": curve(felt), "bare insert": curve(floor)},
        core_p50_ms=metrics["p50_ms"], core_p99_ms=metrics["p99_ms"], bare_p99_ms=bare.p99_ms,
    )  # fmt: skip
