"""How long does one transition take when nothing else goes on?

One instance at a time, one step after another. Timed is what a user waits for between two steps: from the end of a
step's body until the workflow has its durable result in hand. The result is encoded, recorded, sent, committed, the
commit is learnt of, and the workflow goes on. `await_p50_ms` beside it is longer, the whole of `await step()` with the
dispatch of the step and its (trivial) body; `core_p50_ms` is shorter, from the record to the commit's being known.

Beside it: a prepared one-row insert of the same bytes through libpq itself, the server's floor. Floor and figure take
turns, a few hundred each, so that whatever the machine does happens to both. The medians are compared. What the same
insert takes through psycopg, as an application would send it, is in `psycopg_p50_ms`.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import psycopg

from benchmarks.figures import curve, latency
from benchmarks.lab import Lab
from pgdurable.cli.bench_floor import bare_inserts, make_bare_tables
from pgdurable.workflow import Step, Workflow

TURNS = 20
INSTANCES = 20  # of ten steps, in one turn
STEPS = 10
BUSY_WAIT_S = 0.0002

_transitions: list[float] = []
_awaits: list[float] = []
_ended = 0.0


async def _work(n: int) -> int:
    global _ended
    n += 1
    _ended = time.perf_counter()
    return n


work = Step(_work, name="work")


async def _timed(steps: int) -> int:
    clock = time.perf_counter
    n = 0
    for _ in range(steps):
        began = clock()
        n = await work(n)
        now = clock()
        _transitions.append(now - _ended)
        _awaits.append(now - began)
    return n


timed = Workflow(_timed, name="bench_timed")


def application_inserts(lab: Lab, number: int) -> list[float]:
    """Seconds each committed one-row insert took through psycopg, prepared."""
    took = []
    with psycopg.connect(lab.dsn, autocommit=True) as conn:
        for n in range(number + 10):
            began = time.perf_counter()
            conn.execute(
                f"insert into {lab.schema}.bare_history"
                " (instance_id, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb)",
                (uuid.uuid4(), 1, n, 12345, 0.02, 1, "step", "work", "7"),
                prepare=True,
            )
            took.append(time.perf_counter() - began)
    return took[10:]


def bench_idle(benchmark: Any, lab: Lab) -> None:
    idle(benchmark, lab, "transition.idle")


def bench_idle_busy_wait(benchmark: Any, lab: Lab) -> None:
    """The same with `Engine(busy_wait=...)`: the engine looks for the answer instead of sleeping."""
    idle(benchmark, lab, "transition.idle_busy_wait", busy_wait=BUSY_WAIT_S)


def idle(benchmark: Any, lab: Lab, name: str, **options: Any) -> None:
    turns = lab.scaled(TURNS)
    floor: list[float] = []
    usual: list[float] = []
    spent: list[float] = []  # CPU seconds of a turn, the caller's part included

    async def one_by_one(engine: Any) -> None:
        for _ in range(INSTANCES):
            handle = await engine.start(timed, STEPS)
            if await handle.result() != STEPS:
                raise AssertionError(f"instance {handle.id} gave another result")

    async def all_turns() -> dict[str, Any]:
        async with lab.engine([timed], **options) as engine:
            with lab.bare() as bare:
                make_bare_tables(bare, lab.schema)
                bare_inserts(bare, lab.schema, 200)
                application_inserts(lab, 50)
                await one_by_one(engine)  # warm-up
                _transitions.clear()
                _awaits.clear()
                for _ in range(turns):
                    floor.extend(bare_inserts(bare, lab.schema, INSTANCES * STEPS))
                    usual.extend(application_inserts(lab, 50))
                    before = time.process_time()
                    await one_by_one(engine)
                    spent.append(time.process_time() - before)
                return engine.metrics()

    metrics = benchmark.pedantic(lambda: lab.run(all_turns()), rounds=1, iterations=1)
    one, bare, whole = latency(_transitions), latency(floor), latency(_awaits)
    lab.figure(
        name, one.p50_ms, "ms", latency=one, beside=("bare insert", bare.p50_ms),
        note=f"median of {one.count:,} steps, {turns} turns of each",
        series={"transition": curve(_transitions), "bare insert": curve(floor)},
        await_p50_ms=whole.p50_ms, await_p99_ms=whole.p99_ms, bare_p99_ms=bare.p99_ms,
        psycopg_p50_ms=latency(usual).p50_ms,
        core_p50_ms=metrics["p50_ms"], core_p99_ms=metrics["p99_ms"], cpu_us=sum(spent) * 1e6 / len(_transitions),
    )  # fmt: skip
