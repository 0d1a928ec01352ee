"""An hour at half the peak: does anything grow? `make soak`, or `.venv/bin/python -m benchmarks.soak --seconds 3600`.

On an embedded server of its own. First the peak of the mix of workflows in `soak_load.py` is measured: what two worker
processes go on doing together when far more is offered than they can do. Then half of it is offered as an open loop by
one worker process, beside another that a rolling restart replaces every few minutes.
Retention is as short as the hour demands (`KEEP`, partitions of history of `WIDTH`), so that what leaves must keep up
with what comes. Every few seconds: resident memory, descriptors and threads of the worker, connections and memory of
the server, bytes and dead rows of every table, steps a second and their latency.

At the end each series is held against a straight line through its last two thirds. What has grown by more than a tenth
of its mean, and by more than its own noise, is called growing, and the exit code is 1. Writes `soak.json` and
`soak.svg` into the folder of `--results`. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.server import describe, machine
from benchmarks.soak_load import MIX, STEPS
from pgdurable._store.migrations import migrate
from pgdurable.embedded import EmbeddedServer

__all__ = ["SERIES", "growth", "main"]

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = "soak"
KEEP, WIDTH = "4 minutes", "2 minutes"
# The peak: so many instances a second are offered for so long; what is done in the last half of it counts.
PEAK_OFFERED, PEAK_S = 12_000, 60.0
PEAK_SCHEMA = "soak_peak"
MOST_LEFT_OUT = 0.01
RESTART_EVERY_S = 300.0

# What has to stay flat: its name in a sample, how it is called, and the unit it is shown in.
SERIES: dict[str, tuple[str, float, str]] = {
    "rss": ("the worker's memory", 2**20, "MiB"),
    "descriptors": ("its descriptors", 1, ""),
    "threads": ("its threads", 1, ""),
    "connections": ("connections to the server", 1, ""),
    "server_memory": ("the server's memory", 2**20, "MiB"),
    "instances_bytes": ("table instances", 2**20, "MiB"),
    "history_bytes": ("table history, all partitions", 2**20, "MiB"),
    "events_bytes": ("table events", 2**10, "KiB"),
    "workers_bytes": ("table workers", 2**10, "KiB"),
    "steps_per_s": ("steps a second", 1000, "thousand"),
    "p50_ms": ("a transition, median", 1, "ms"),
    "p99_ms": ("a transition, 99th percentile", 1, "ms"),
}
# These may vary; they are shown, not judged.
SHOWN_ONLY = {"steps_per_s", "p50_ms", "p99_ms"}

TABLES = """
select coalesce(parent.relname, c.relname) as name, sum(pg_total_relation_size(c.oid))::bigint as bytes,
       sum(coalesce(s.n_dead_tup, 0))::bigint as dead
  from pg_class c
  left join pg_inherits i on i.inhrelid = c.oid
  left join pg_class parent on parent.oid = i.inhparent
  left join pg_stat_all_tables s on s.relid = c.oid
 where c.relnamespace = 'soak'::regnamespace and c.relkind = 'r'
 group by 1
"""


class Process:
    """A worker process of the soak, with the last line it said."""

    def __init__(self, dsn: str, rate: float, every: float, schema: str = SCHEMA) -> None:
        options = {"rate": rate, "every": every}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak_load", dsn, schema, json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )  # fmt: skip
        self.last: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.last = json.loads(line)

    def stop(self) -> int:
        """Stops it in good order; its exit code."""
        self.child.terminate()
        try:
            return self.child.wait(90)
        finally:
            if self.child.poll() is None:
                self.child.kill()


def growth(values: list[float]) -> tuple[float, float]:
    """Of the last two thirds: growth along the line of least squares, and scatter around it, in parts of the mean."""
    late = values[len(values) // 3 :]
    mean = statistics.fmean(late)
    if len(late) < 3 or mean == 0:
        return 0.0, 0.0
    fit = statistics.linear_regression(range(len(late)), late)
    off = [value - (fit.intercept + fit.slope * n) for n, value in enumerate(late)]
    return fit.slope * (len(late) - 1) / mean, statistics.pstdev(off) / mean


def is_growing(values: list[float]) -> bool:
    """More than a tenth, and more than the noise around the line."""
    grown, scatter = growth(values)
    return grown > 0.1 and grown > 2 * scatter


def server_memory(postmaster: int) -> int:
    """Bytes of the server's processes, what they share counted once."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if (
                int(stat.read_text().rpartition(") ")[2].split()[1]) != postmaster
                and int(stat.parent.name) != postmaster
            ):
                continue
            rollup = (stat.parent / "smaps_rollup").read_text()
            total += int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1]) * 1024
        except (OSError, StopIteration):
            continue  # has just ended
    return total


def sample(conn: psycopg.Connection[Any], server: EmbeddedServer, loader: Process, began: float) -> dict[str, Any]:
    found: dict[str, Any] = {"t": time.time() - began, **loader.last}
    for name, size, dead in conn.execute(TABLES).fetchall():
        found[f"{name}_bytes"] = int(size)
        found[f"{name}_dead"] = int(dead)
    row = conn.execute("select count(*) from pg_stat_activity where backend_type = 'client backend'").fetchone()
    found["connections"] = row[0] if row else 0
    row = conn.execute("select count(*) from soak.history_partitions").fetchone()
    found["partitions"] = row[0] if row else 0
    assert server.pid is not None
    found["server_memory"] = server_memory(server.pid)
    return found


def make_accounts(conn: psycopg.Connection[Any]) -> None:
    """The accounts that transfers move money between, each with as much as at the beginning."""
    conn.execute("create table if not exists public.soak_accounts (id int primary key, balance int not null)")
    conn.execute("truncate public.soak_accounts")
    conn.execute("insert into public.soak_accounts select n, 1000 from generate_series(0, 999) n")


def prepare(dsn: str) -> None:
    migrate(dsn, SCHEMA)
    with psycopg.connect(dsn, autocommit=True) as conn:
        # Short, so that an hour sees what else takes months.
        short = {
            "retention": KEEP,
            "partition_width": WIDTH,
            "partition_ahead": "90 minutes",
            "history_grace": "1 hour",
        }
        for name, value in short.items():
            conn.execute("update soak.settings set value = %s where name = %s", (value, name))
        make_accounts(conn)
        # Of a fresh schema the first partition reaches to the end of the week: anew, in narrow ones from now on.
        parts = conn.execute("select name from soak.history_partitions").fetchall()
        for (name,) in parts:
            conn.execute(sql.SQL("drop table soak.{}").format(sql.Identifier(name)))
        conn.execute("select soak.make_partitions()")


def peak_of(dsn: str, every: float) -> float:
    """Steps a second that two workers do while they are offered more, in a namespace of its own."""
    migrate(dsn, PEAK_SCHEMA)
    with psycopg.connect(dsn, autocommit=True) as conn:
        make_accounts(conn)
        workers = [Process(dsn, PEAK_OFFERED, every, PEAK_SCHEMA), Process(dsn, 0, every, PEAK_SCHEMA)]
        try:
            rates: list[list[float]] = [[], []]
            end = time.time() + PEAK_S
            while time.time() < end:
                time.sleep(every)
                for worker, seen in zip(workers, rates, strict=True):
                    if worker.child.poll() is not None:
                        raise SystemExit(f"a worker ended with {worker.child.returncode}; what it said is above")
                    if worker.last:
                        seen.append(worker.last["steps_per_s"])
        finally:
            for worker in workers:
                worker.child.kill()
                worker.child.wait()
        conn.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(PEAK_SCHEMA)))
    return sum(statistics.fmean(seen[len(seen) // 2 :]) for seen in rates)


def run(seconds: float, rate: float | None, every: float, console: Console) -> dict[str, Any]:
    with EmbeddedServer(settings={"max_wal_size": "4GB", "track_io_timing": "off"}) as server:
        steps_each = sum(MIX[kind] * n for kind, n in zip(MIX, (STEPS, 3, 2, 1), strict=True)) / sum(MIX.values())
        peak = None
        if rate is None:
            peak = peak_of(server.dsn, every)
            rate = peak / 2
        prepare(server.dsn)
        console.print(f"peak of the mix: {peak or 0:,.0f} steps/s; offered: {rate:,.0f} for {seconds:,.0f} s")
        samples: list[dict[str, Any]] = []
        restarts = 0
        loader, helper = Process(server.dsn, rate / steps_each, every), Process(server.dsn, 0, every)
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        try:
            with psycopg.connect(server.dsn, autocommit=True) as conn, bar:
                task = bar.add_task("soak", total=seconds)
                began = time.time()
                restarted = began
                while (now := time.time()) - began < seconds:
                    time.sleep(every)
                    if loader.child.poll() is not None:
                        raise SystemExit(f"the loading worker ended with {loader.child.returncode}")
                    if loader.last:
                        samples.append(sample(conn, server, loader, began))
                    if now - restarted > RESTART_EVERY_S:
                        restarted = now
                        fresh = Process(server.dsn, 0, every)
                        if helper.stop() != 0:
                            raise SystemExit("the worker that was to be replaced did not stop in good order")
                        helper, restarts = fresh, restarts + 1
                    last = samples[-1] if samples else {}
                    said = f"{last.get('steps_per_s', 0):,.0f} steps/s, {last.get('rss', 0) / 2**20:,.0f} MiB"
                    bar.update(task, completed=now - began, description=said)
                    if not console.is_terminal and len(samples) % 30 == 1:
                        console.print(f"{now - began:6,.0f} s  {said}, {last.get('instances', 0):,} instances here")
                ends = [loader.stop(), helper.stop()]
                kept = conn.execute("select sum(balance), count(*) from public.soak_accounts").fetchone()
                failed = conn.execute(
                    "select count(*) from soak.instances where status in ('failed', 'paused', 'timed_out')"
                ).fetchone()
        finally:
            for process in (loader, helper):
                if process.child.poll() is None:
                    process.child.kill()
        return {
            "seconds": seconds, "peak": peak, "offered": rate, "restarts": restarts, "ends": ends, "keep": KEEP,
            "width": WIDTH, "money": kept == (1000 * 1000, 1000), "failed": failed[0] if failed else None,
            "started": samples[-1]["started"] if samples else 0,
            "left_out": samples[-1]["left_out"] if samples else 0, "server": describe(server.dsn), "machine": machine(),
            "when": time.strftime("%Y-%m-%d"), "samples": samples,
        }  # fmt: skip


def judge(found: dict[str, Any]) -> list[str]:
    """What is wrong with a soak: what grew, and what did not end well."""
    wrong = []
    for name, (title, unit, of) in SERIES.items():
        values = [float(one[name]) for one in found["samples"] if one.get(name) is not None]
        grown, scatter = growth(values)
        found.setdefault("growth", {})[name] = {
            "title": title, "unit": unit, "of": of, "of_mean": grown, "scatter": scatter,
            "mean": statistics.fmean(values[len(values) // 3 :]) if values else None,
        }  # fmt: skip
        if name not in SHOWN_ONLY and is_growing(values):
            wrong.append(
                f"{title} grew by {grown:.0%} in the last two thirds, to {values[-1] / unit:,.0f} {of}".strip()
            )
    if found["left_out"] > found["started"] * MOST_LEFT_OUT:
        wrong.append(f"{found['left_out']:,} instances of {found['started'] + found['left_out']:,} were not offered")
    if not found["money"]:
        wrong.append("money was made or lost")
    if found["failed"]:
        wrong.append(f"{found['failed']} instances failed or stand still")
    if any(found["ends"]):
        wrong.append(f"the workers ended with {found['ends']}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rate", type=float, help="steps a second to offer, instead of half the peak")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--results", type=Path, help="folder for soak.json and soak.svg")
    asked = parser.parse_args()
    console = Console(stderr=True)
    found = run(asked.seconds, asked.rate, asked.every, console)
    wrong = judge(found)
    if asked.results is not None:
        from benchmarks.soak_plot import draw

        asked.results.mkdir(parents=True, exist_ok=True)
        thinned = found["samples"][:: max(len(found["samples"]) // 720, 1)]
        (asked.results / "soak.json").write_text(
            json.dumps({**found, "samples": thinned, "wrong": wrong}, indent=1) + "\n"
        )
        draw(found, asked.results / "soak.svg")
    for line in wrong:
        console.print(f"[red]{line}[/]")
    console.print(
        "flat" if not wrong else "NOT flat", f"after {found['seconds']:,.0f} s, {found['started']:,} instances"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
