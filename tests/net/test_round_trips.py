"""One flush is one round trip: counted on the wire, in libpq's trace, and by the clock across a slow network."""

from __future__ import annotations

import asyncio
import os
import re
import select
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.namespace import Namespace

import pgdurable as pgd
from pgdurable._core import Flusher
from pgdurable._store.sql import named_queries

from .gate import Gate

PIPELINE, COPY = 1_000_000, 1


def flush(flusher: Flusher) -> None:
    flusher.send(flusher.take())
    while True:
        writing = [flusher.fileno] if flusher.wants_write else []
        assert any(select.select([flusher.fileno], writing, [], 20))
        done = flusher.ready()
        if done is not None:
            assert done[0] == "committed"
            return


def worker(ns: Namespace) -> int:
    return int(ns.one("select @.join_worker('w', '[]', interval '1 hour')"))


def steps(flusher: Flusher, n: int, payload: bytes = b"1") -> None:
    for _ in range(n):
        flusher.add_history(bytes(6) + os.urandom(10), 1, 0, 7, 0.5, 1, "step", "s", payload, None, None)


def starts(flusher: Flusher, n: int) -> None:
    for _ in range(n):
        flusher.add_instance(bytes(6) + os.urandom(10), "w", "1", "pending", "q", None, b"{}", None)


def releases(flusher: Flusher, n: int) -> None:
    for _ in range(n):
        flusher.add_release(bytes(6) + os.urandom(10), "completed", b"1", None, None, None)


def events(flusher: Flusher, n: int) -> None:
    for seq in range(n):
        flusher.add_history(bytes(6) + os.urandom(10), 1, None, None, None, None, "signal", "s", b"1", None, None, seq)


FILLINGS: dict[str, tuple[Callable[[Flusher, int], None], ...]] = {
    "steps": (steps,),
    "starts": (starts,),
    "everything": (starts, steps, events, releases),
}
# A query and permission for the first table; for the second; its rows and the end; what cannot go by COPY.
COPY_TRIPS = {"steps": 2, "starts": 2, "everything": 4}


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("what", FILLINGS)
def test_a_flush_is_one_round_trip_on_the_wire(ns: Namespace, what: str, rows: int) -> None:
    with Gate(ns.dsn) as gate:
        for copy_from, trips in ((PIPELINE, 1), (COPY, COPY_TRIPS[what])):
            flusher = Flusher(named_queries("flush", ns.schema), copy_from)
            flusher.connect(gate.dsn(), worker(ns), [])
            for again in range(3):
                before = gate.turns
                for fill in FILLINGS[what]:
                    fill(flusher, rows)
                flush(flusher)
                assert gate.turns - before == trips, (copy_from, again)
            flusher.close()


@pytest.mark.parametrize("what", FILLINGS)
def test_a_flush_is_one_round_trip_in_the_trace_of_libpq(ns: Namespace, what: str, tmp_path: Path) -> None:
    flusher = Flusher(named_queries("flush", ns.schema), PIPELINE)
    flusher.connect(ns.dsn, worker(ns), [])
    path = tmp_path / "trace"
    flusher.trace(str(path))
    for _ in range(4):
        for fill in FILLINGS[what]:
            fill(flusher, 5)
        flush(flusher)
    flusher.close()
    said = [
        line.split("\t")[0::2] for line in path.read_text(errors="replace").splitlines() if re.match("[FB]\t", line)
    ]
    names = [name for _, name in said]
    assert (names.count("Sync"), names.count("ReadyForQuery"), names.count("Query")) == (4, 4, 0)
    directions = [direction for direction, _ in said]
    # Between one flush and the next, and before the goodbye.
    assert "".join(directions).count("BF") == 4
    assert names[-1] == "Terminate"
    assert (names.count("Execute"), names.count("Parse")) == (4 * {"steps": 2, "starts": 3, "everything": 6}[what], 0)


def test_over_a_network_a_batch_goes_by_copy_only_where_that_pays(ns: Namespace) -> None:
    with Gate(ns.dsn, delay=0.01) as gate:
        flusher = Flusher(named_queries("flush", ns.schema), 100)
        flusher.connect(gate.dsn(), worker(ns), [])
        assert 10 <= flusher.round_trip_ms < 20
        before = gate.turns
        begun = time.perf_counter()
        steps(flusher, 2000)
        flush(flusher)
        assert (gate.turns - before, flusher.stats()["copies"]) == (1, 0)
        assert time.perf_counter() - begun < 0.2
        flusher.close()
    with Gate(ns.dsn) as gate:
        flusher.connect(gate.dsn(), worker(ns), [])
        steps(flusher, 2000)
        flush(flusher)
        assert flusher.stats()["copies"] == 1
        flusher.close()


# --- by the clock, through the engine -----------------------------------------------------------------------------

moments: dict[str, float] = {}


@pgd.step
async def nothing() -> None:
    moments["step ended"] = time.perf_counter()


@pgd.workflow
async def one_step() -> None:
    moments["begun"] = time.perf_counter()
    await nothing()
    moments["step known"] = time.perf_counter()


@pytest.mark.parametrize("delay_ms", [0, 1, 20])
async def test_a_transition_takes_one_round_trip(ns: Namespace, delay_ms: int, record_property: Callable) -> None:
    took: dict[str, list[float]] = {"start": [], "step": [], "end": []}
    with Gate(ns.dsn, delay=delay_ms / 1e3) as gate:
        async with pgd.Engine(gate.dsn(), schema=ns.schema, workflows=[one_step]) as engine:
            for _ in range(12):
                asked = time.perf_counter()
                handle = await engine.start(one_step)
                started = time.perf_counter()
                await handle.result(timeout=20)
                ended = time.perf_counter()
                took["start"].append(moments["begun"] - asked)
                took["step"].append(moments["step known"] - moments["step ended"])
                took["end"].append(ended - moments["step known"])
                assert started - asked < 10
                await asyncio.sleep(0)
    found = {what: statistics.median(times) * 1e3 for what, times in took.items()}
    record_property("milliseconds", found)
    print(f"delay {delay_ms} ms:", {what: round(ms, 2) for what, ms in found.items()})
    for what, ms in found.items():
        assert delay_ms <= ms < delay_ms * 1.3 + 15, what  # 15: a machine that does other things too; two trips are 40
