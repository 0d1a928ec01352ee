"""The main table in under a minute: `make bench-quick`, or `.venv/bin/python -m benchmarks.quick`.

It runs the benchmarks of this folder with smaller loads and fewer rounds; what each measures, and how, stands at its
head. On an embedded server, or on the one that PGDURABLE_BENCH_DSN names.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import (
    bench_offered_load,
    bench_start,
    bench_throughput,
    bench_transaction_step,
    bench_transition,
    server,
)
from benchmarks.bare_benchmark import run
from benchmarks.figures import Figure, Figures, Latency, as_json, text_table

PEER_SECONDS = 3.0


def plan() -> list[tuple[str, Callable[..., Any]]]:
    """What is run, in order: a name to show, and a function that takes DSN and figures."""
    throughput = bench_throughput.bench_ten_steps
    found: list[tuple[str, Callable[..., Any]]] = [
        ("idle transition", partial(run, bench_transition.bench_idle, scale=0.4, rounds=1)),
        ("the same, busy waiting", partial(run, bench_transition.bench_idle_busy_wait, scale=0.4, rounds=1)),
    ]
    for concurrent in bench_throughput.INSTANCES:
        name = f"throughput, {concurrent} at once"
        found.append((name, partial(run, throughput, scale=0.6, rounds=2, concurrent=concurrent)))
    offered = partial(run, bench_offered_load.bench_offered, scale=0.5, rounds=1, rate=10_000)
    found.append(("10,000 steps/s offered", offered))
    for concurrent in (10, 50):
        one = partial(
            run, bench_transaction_step.bench_update_and_checkpoint, scale=0.4, rounds=2, concurrent=concurrent
        )  # fmt: skip
        found.append((f"transaction steps, {concurrent} at once", one))
    found.append(("starts", partial(run, bench_start.bench_one_by_one, scale=0.5, rounds=2, how="start")))
    for how in ("list", "array"):
        found.append((f"start_many, {how}", partial(run, bench_start.bench_start_many, scale=0.5, rounds=2, how=how)))
    found += [(name, partial(peer, name)) for name in ("dbos", "absurd")]
    return found


def peer(name: str, dsn: str, figures: Figures) -> None:
    """The peer's figure, where its package is installed; the comparison with a bare insert is left to `make bench`."""
    from benchmarks.peers import run_peer

    found = run_peer(name, dsn, PEER_SECONDS)
    figures.add(
        Figure(
            f"{name} {found.version}, {found.concurrency} at once", found.steps_per_s, "steps/s",
            latency=Latency(found.p50_ms, found.p99_ms, found.p999_ms, found.samples),
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="The main table in under a minute.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    figures, left_out = Figures(), []
    console = Console(stderr=True)
    began = time.perf_counter()
    with server.server() as dsn:
        settings = server.describe(dsn)
        machine = server.machine()
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        ) as bar:  # fmt: skip
            todo = plan()
            task = bar.add_task("", total=len(todo))
            for name, work in todo:
                bar.update(task, description=name)
                try:
                    work(dsn, figures)
                except Exception as error:  # one that cannot run must not hide the others
                    left_out.append(f"{name}: {str(error).splitlines()[0] if str(error) else error!r}")
                bar.advance(task)
                if not console.is_terminal:
                    console.print(f"{time.perf_counter() - began:4.0f} s  {name}", highlight=False)
    print("\n".join(server.lines(settings)))
    print(
        f"{machine['cpu']}, {machine['cores']} cores, load before {machine['load'][0]}; Python {machine['python']},"
        f" pgdurable {machine['versions']['pgdurable']} ({machine['commit']})\n"
    )
    print(text_table(figures.all))
    print(f"\n{time.perf_counter() - began:.0f} s. Steps are trivial; latencies are those the workflow sees.")
    for line in left_out:
        print(f"not measured: {line}")
    if options.json:
        result = {"machine": machine, "settings": settings, "figures": [figure.as_dict() for figure in figures.all]}
        options.json.write_text(as_json(result), encoding="utf-8")
    if any(not line.startswith(("dbos", "absurd")) for line in left_out):
        sys.exit(1)


if __name__ == "__main__":
    main()
