"""From how many rows on is COPY the faster way to send a batch?

The core sends small batches as one pipeline (one round trip, arrays unnested by the server) and large ones by binary
COPY (one round trip more, no arrays). Here the same batches of history rows go both ways, in turns, through the core
itself. The figure is where COPY overtakes; the engine's constant
(`COPY_FROM` of the journal) is larger, because a busy engine's flush holds starts and ends too; why stands beside it.
Near it the two take the same time, so a factor of two off costs little.
"""

from __future__ import annotations

import select
import time
from typing import Any

import numpy as np

from benchmarks.lab import Lab
from pgdurable._core import Flusher
from pgdurable._engine.ids import Ids
from pgdurable._engine.journal import COPY_FROM
from pgdurable._store.sql import named_queries

SIZES = (1, 4, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048)
ROWS = 30_000  # rows of each size and way, at most 300 batches
NEVER = 1 << 30
new_id = Ids(lambda: 0).new_id


def flush(flusher: Flusher, rows: int) -> float:
    """Seconds from sending a batch of so many history rows to knowing its commit."""
    for n in range(rows):
        if n % 10 == 0:
            instance = new_id()
        flusher.add_history(instance, n % 10 + 1, n % 10, 12345, 0.02, 1, "step", "work", b"7", None, None)
    batch = flusher.take()
    began = time.perf_counter()
    flusher.send(batch)
    while True:
        writing = [flusher.fileno] if flusher.wants_write else []
        select.select([flusher.fileno], writing, [], 30)
        done = flusher.ready()
        if done is not None:
            break
    took = time.perf_counter() - began
    if done[0] != "committed":
        raise RuntimeError(f"refused: {done[2:]}")
    return took


def bench_crossover(benchmark: Any, lab: Lab) -> None:
    flusher = Flusher(named_queries("flush", lab.schema), NEVER)
    flusher.connect(lab.dsn, None, [])
    found: dict[int, tuple[float, float]] = {}

    def measure() -> None:
        for size in SIZES:
            batches = lab.scaled(min(ROWS // size, 300)) + 3
            took: dict[int, list[float]] = {NEVER: [], 1: []}
            for _ in range(batches):
                for copy_from, samples in took.items():
                    flusher.copy_from = copy_from
                    samples.append(flush(flusher, size))
            found[size] = (float(np.median(took[NEVER])), float(np.median(took[1])))
            lab.execute("truncate @.history")

    try:
        measure()  # warm-up
        lab.rounds(benchmark, measure, before=lab.calm, rounds=1)
    finally:
        flusher.close()
    constant = COPY_FROM
    for size, (pipeline, copy) in found.items():
        chosen, other = (copy, "pipeline") if size >= constant else (pipeline, "COPY")
        lab.figure(
            f"flush.{size}", chosen * 1e3, "ms", beside=(other, (pipeline + copy - chosen) * 1e3), note="median",
            params={"rows": size, "way": "COPY" if size >= constant else "pipeline"},
            pipeline_ms=pipeline * 1e3, copy_ms=copy * 1e3,
        )  # fmt: skip
    # Where the straight line between two sizes of the difference, over log(size), passes zero for the last time.
    logs = np.log2(SIZES)
    gain = np.array([np.log(pipeline / copy) for pipeline, copy in found.values()])
    below = np.flatnonzero(gain < 0)
    last = int(below[-1]) if below.size else -1
    if last < 0:
        crossover = float(SIZES[0])
    elif last == len(SIZES) - 1:
        crossover = float(SIZES[-1])
    else:
        crossover = float(2 ** np.interp(0.0, gain[last : last + 2], logs[last : last + 2]))
    lab.figure("flush.crossover", crossover, "rows", beside=("copy_from in the engine", float(constant)))
