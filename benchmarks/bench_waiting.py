"""What do instances that wait cost: memory, disk, CPU, queries?

A worker process starts so many instances, each of which goes to its wait: a sleep of a day, or a signal that nobody
sends. They leave its memory (they are parked). Then nothing happens for some seconds, in which is measured what the
worker still does.

Figures, per number and kind: bytes of database each (tables and indexes, dead rows included, as autovacuum left them),
the worker's resident memory, "everything" (that memory, the database's bytes and the server's shared buffers), CPU of
worker and server in percent of one core, transactions a minute (each of the engine's idle queries is one). Beside
memory, CPU and transactions: the same of the same process before it had any instance.

By default 10,000 and, for signals, 100,000; with --slow also 500,000.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from benchmarks.lab import Lab
from benchmarks.worker import Worker

KINDS = {"signal": ("bench_waiter", 1), "sleep": ("bench_sleeper", 86_400.0)}
IDLE_S = 8.0
PATIENCE_S = 900.0


@dataclass
class Idle:
    """What worker and server do while nothing happens."""

    worker_cpu: float
    server_cpu: float | None
    per_minute: float


def _process_cpu(pid: int) -> float | None:
    """CPU seconds of a process of this machine; None where there is no such process to be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(lab: Lab, worker: Worker, seconds: float) -> Idle:
    """Watches for so many seconds; all other sessions of the database must be quiet."""
    with psycopg.connect(lab.dsn, autocommit=True) as conn:

        def backends() -> float | None:
            found = conn.execute(
                "select pid from pg_stat_activity where application_name = 'pgdurable engine'"
            ).fetchall()
            used = [_process_cpu(pid) for (pid,) in found]
            return None if not used or None in used else float(sum(filter(None, used)))

        def transactions() -> int:
            row = conn.execute(
                "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
            ).fetchone()
            assert row is not None
            return int(row[0])

        backends(), transactions()
        time.sleep(1.5)  # statistics of what went before are in
        began, cpu, server, count = time.monotonic(), worker.ask("usage")["cpu_s"], backends(), transactions()
        time.sleep(seconds)
        took = time.monotonic() - began
        after = backends()
        own = 3  # of this session, between the two counts
        return Idle(
            (worker.ask("usage")["cpu_s"] - cpu) / took * 100,
            None if server is None or after is None else (after - server) / took * 100,
            max(transactions() - count - own, 0) / took * 60,
        )


def _wait_until_parked(lab: Lab, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    with psycopg.connect(lab.dsn, autocommit=True) as conn:
        while True:
            row = conn.execute(
                f"select count(*) from {lab.schema}.instances where status = 'waiting' and owner is null"
            ).fetchone()
            if row == (number,):
                return
            assert time.monotonic() < deadline, f"{row} of {number} instances are parked"
            time.sleep(0.5)


def _bytes(lab: Lab) -> tuple[int, int]:
    """Bytes of the namespace's tables and indexes, and of the server's shared buffers."""
    with psycopg.connect(lab.dsn, autocommit=True) as conn:
        row = conn.execute(
            "select sum(pg_total_relation_size(c.oid))::bigint,"
            " (select setting::bigint * 8192 from pg_settings where name = 'shared_buffers')"
            " from pg_class c where c.relnamespace = %s::regnamespace and c.relkind = 'r'",
            (lab.schema,),
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (10_000, "signal"),
        (10_000, "sleep"),
        (100_000, "signal"),
        pytest.param(500_000, "signal", marks=pytest.mark.slow),
        pytest.param(500_000, "sleep", marks=pytest.mark.slow),
    ],
)
def bench_waiting(benchmark: Any, lab: Lab, number: int, kind: str) -> None:
    if lab.short:
        number //= 10
    seconds = 2.0 if lab.short else IDLE_S
    workflow, argument = KINDS[kind]
    empty_bytes, _ = _bytes(lab)
    with Worker(lab.dsn, lab.schema, park_after=0.5) as worker:
        empty_rss = worker.ask("usage")["rss"]
        empty = idle(lab, worker, seconds)

        def fill() -> None:
            worker.ask("start_many", workflow=workflow, argument=argument, number=number)
            _wait_until_parked(lab, number)
            while worker.ask("count")["instances"]:  # the last answers are still being handed out
                time.sleep(0.1)

        benchmark.pedantic(fill, rounds=1, iterations=1)
        full = idle(lab, worker, seconds)
        rss = worker.ask("usage")["rss"]
    full_bytes, buffers = _bytes(lab)
    each = (full_bytes - empty_bytes) / number
    name, params = f"waiting.{kind}.{number // 1000}k", {"instances": number, "kind": kind}
    lab.figure(f"{name}.database", each, "bytes each", params=params, database_bytes=full_bytes)
    lab.figure(
        f"{name}.memory", rss / 2**20, "MiB", beside=("worker without instances", empty_rss / 2**20), params=params
    )
    lab.figure(f"{name}.everything", (rss + full_bytes + buffers) / 2**30, "GiB", params=params)
    lab.figure(
        f"{name}.transactions", full.per_minute, "a minute", params=params,
        beside=("without instances", max(empty.per_minute, 1.0)),
    )  # fmt: skip
    lab.figure(
        f"{name}.cpu", full.worker_cpu + (full.server_cpu or 0.0), "% of a core", params=params,
        beside=("without instances", max(empty.worker_cpu + (empty.server_cpu or 0.0), 0.01)),
        worker=full.worker_cpu, server=full.server_cpu,
    )  # fmt: skip
