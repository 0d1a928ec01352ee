"""What does the past cost: throughput with much history behind it, and after an hour of churn?

`bench_history`: 200 callers run ten-step workflows, in an empty namespace and in one with a million history rows of
ended instances behind it (ids spread over 30 days). Rounds in the two take turns; beside the figure stands the empty
one's. With --slow also 10 million; `BENCH_GROWTH_ROWS=100000000` asks for another number.

`bench_churn`: as many instances of ten steps as an hour brings at ten starts a second run to their end, as fast as
they go. Figures: dead rows and bytes of the tables afterwards, as autovacuum left them and after a vacuum; throughput
then, beside that of the empty namespace before. Once more while another session holds a snapshot from before the hour
(a repeatable-read transaction left open, which no vacuum can clean behind).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import pgdurable as pgd
from benchmarks.figures import curve, latency, spread
from benchmarks.lab import Lab
from pgdurable._store.migrations import migrate
from pgdurable.cli.bench_load import Round, closed_loop, many_steps

STEPS = 10
CALLERS = 200
INSTANCES = 5_000  # of a round
DEFAULT_ROWS = 1_000_000
ASKED = os.environ.get("BENCH_GROWTH_ROWS")
STARTS_PER_S = 10
HOUR_S = 3_600
FILL_AT_ONCE = 1_000_000

# A UUIDv7 of a moment in the last 30 days: 48 bits of milliseconds, then random bits.
_OLD_ID = """(lpad(to_hex((extract(epoch from {at}) * 1000)::bigint), 12, '0') || '7'
    || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid"""


async def load(lab: Lab, schema: str, instances: int) -> Round:
    async with pgd.Engine(lab.dsn, schema=schema, workflows=[many_steps]) as engine:
        return await closed_loop(engine, many_steps, (STEPS,), concurrent=CALLERS, instances=instances)


@contextlib.contextmanager
def another(lab: Lab) -> Iterator[str]:
    """A second namespace, empty."""
    schema = f"{lab.schema}_empty"
    migrate(lab.dsn, schema)
    try:
        yield schema
    finally:
        lab.execute(f"drop schema {schema} cascade")


def fill(lab: Lab, rows: int) -> None:
    """So many history rows of instances that ended within the last 30 days, in the order of their time."""
    for first in range(0, rows, FILL_AT_ONCE):
        number = min(FILL_AT_ONCE, rows - first) // STEPS
        at = f"now() - interval '30 days' * (1 - ({first // STEPS} + n)::float8 / {rows // STEPS})"
        lab.execute(
            f"create unlogged table @.old as select n, {at} as at, {_OLD_ID.format(at=at)} as id"
            f" from generate_series(0, {number - 1}) n",
            "insert into @.instances"
            " (id, created_at, started_at, finished_at, wake_at, workflow, version, status, input, output)"
            f" select id, at, at, at + interval '2 s', null, 'bench_steps', '{many_steps.version}', 'completed',"
            f" '[{STEPS}]', '{STEPS}' from @.old order by n",
            "insert into @.history"
            " (instance_id, recorded_at, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload)"
            " select id, at + s * interval '0.2 s', s, s - 1, 12345, 0.02, 1, 'step', 'work', to_jsonb(s)"
            f" from @.old, generate_series(1, {STEPS}) s order by n, s",
            "drop table @.old",
        )
    lab.calm()


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(DEFAULT_ROWS, id="1m"),
        pytest.param(10_000_000, id="10m", marks=pytest.mark.slow),
        *([pytest.param(int(ASKED), id="asked")] if ASKED else []),
    ],
)
def bench_history(benchmark: Any, lab: Lab, rows: int) -> None:
    if lab.short:
        rows //= 10
    instances = 500 if lab.short else INSTANCES
    empty: list[Round] = []
    with another(lab) as other:
        fill(lab, rows)

        def run_empty() -> None:
            lab.execute(f"truncate {other}.history, {other}.instances")
            lab.calm()
            empty.append(lab.run(load(lab, other, instances)))

        lab.run(load(lab, lab.schema, instances))  # warm-up
        found = lab.rounds(benchmark, lambda: lab.run(load(lab, lab.schema, instances)), before=run_empty)
    best, best_empty = (max(one, key=lambda done: done.steps_per_s) for one in (found, empty))
    if rows <= DEFAULT_ROWS:  # once in a run
        lab.figure(
            "growth.0_rows", best_empty.steps_per_s, "steps/s", latency=latency(best_empty.felt),
            note=f"best of {len(empty)} rounds", params={"rows_behind": 0, "concurrent": CALLERS},
        )  # fmt: skip
    bare = latency(best_empty.felt)
    lab.figure(
        f"growth.{rows // 1000}k_rows", best.steps_per_s, "steps/s", latency=latency(best.felt),
        beside=("empty namespace", best_empty.steps_per_s),
        note=f"best of {len(found)} rounds, {CALLERS} callers", params={"rows_behind": rows, "concurrent": CALLERS},
        series={"step": curve(best.felt), "empty": curve(best_empty.felt)},
        rounds=spread([done.steps_per_s for done in found]), empty_p50_ms=bare.p50_ms, empty_p99_ms=bare.p99_ms,
        empty_rounds=spread([done.steps_per_s for done in empty]),
    )  # fmt: skip


@contextlib.contextmanager
def old_snapshot(lab: Lab, held: bool) -> Iterator[None]:
    """Another session's open transaction, which still sees everything as it was."""
    if not held:
        yield
        return
    with psycopg.connect(lab.dsn) as conn:
        conn.execute("set transaction isolation level repeatable read")
        conn.execute(f"select count(*) from {lab.schema}.instances")
        yield
        conn.rollback()


def checkpoint(lab: Lab) -> None:
    """Writes out what the last load left, without a vacuum."""
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        lab.execute("checkpoint")


def sizes(lab: Lab) -> dict[str, int]:
    """Dead rows and bytes of the tables that change."""
    found: dict[str, int] = {"dead": 0, "bytes": 0}
    with psycopg.connect(lab.dsn, autocommit=True) as conn:
        conn.execute("select pg_stat_force_next_flush()") if conn.info.server_version >= 150000 else None
        for table, dead, size in conn.execute(
            "select relname, n_dead_tup, pg_total_relation_size(relid) from pg_stat_user_tables where schemaname = %s",
            (lab.schema,),
        ):
            found["dead"] += dead
            found["bytes"] += size
            table = "history" if table.startswith("history") else table  # its partitions
            if table in ("instances", "history", "events"):
                found[f"{table}_dead"] = found.get(f"{table}_dead", 0) + dead
                found[f"{table}_bytes"] = found.get(f"{table}_bytes", 0) + size
    return found


@pytest.mark.parametrize("held", [False, True], ids=["nothing_held", "old_snapshot_held"])
def bench_churn(benchmark: Any, lab: Lab, held: bool) -> None:
    hour = STARTS_PER_S * HOUR_S
    if lab.short:
        hour //= 20
    instances = 500 if lab.short else INSTANCES
    with another(lab) as other, old_snapshot(lab, held):
        lab.run(load(lab, other, instances))  # warm-up
        benchmark.pedantic(lambda: lab.run(load(lab, lab.schema, hour)), rounds=1, iterations=1)
        after = sizes(lab)
        empty, found = [], []
        for _ in range(1 if lab.short else 3):
            lab.execute(f"truncate {other}.history, {other}.instances")
            checkpoint(lab)
            empty.append(lab.run(load(lab, other, instances)))
            checkpoint(lab)
            found.append(lab.run(load(lab, lab.schema, instances)))
        lab.execute("vacuum @.instances", "vacuum @.history", "vacuum @.events", "vacuum @.workers")
        vacuumed = sizes(lab)
    best, best_empty = (max(one, key=lambda done: done.steps_per_s) for one in (found, empty))
    name = f"growth.churn{'.snapshot' if held else ''}"
    note = f"after {hour} instances of {STEPS} steps" + (", an old snapshot held meanwhile" if held else "")
    lab.figure(
        f"{name}.throughput", best.steps_per_s, "steps/s", latency=latency(best.felt),
        beside=("empty namespace", best_empty.steps_per_s), note=note,
        rounds=spread([done.steps_per_s for done in found]),
    )  # fmt: skip
    lab.figure(f"{name}.dead", after["dead"], "dead rows", note=note, **after)
    lab.figure(f"{name}.dead_after_vacuum", vacuumed["dead"], "dead rows", note=note, **vacuumed)
    lab.figure(f"{name}.size", after["bytes"] / hour, "bytes an instance", note=note)
