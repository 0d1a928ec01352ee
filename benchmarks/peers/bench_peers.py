"""How many durable steps/s do other libraries reach on this server, with the same ten-step workflow?

Same server, same settings, same run, same driver: callers start a workflow of ten trivial steps, await its end, and
start the next; starts and ends are in the time, not in the count. Latency is that of one step as the workflow's code
sees it. Each library is tried at several concurrencies, in threads and on an event loop, in one and two processes; its
best is kept. Beside each: `bare`, one prepared insert and commit per step by as many connections as serve it best.

Afterwards the checkpoints in the server are counted (one for each step acknowledged) and its fsyncs are compared with
what durable commits need. What is not installed is left out, with a line that says so.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.figures import Latency
from benchmarks.lab import Lab
from benchmarks.peers import PEERS, PeerFigure, PeerMissing, run_peer

SECONDS = 8.0
SHORT_SECONDS = 2.0


@pytest.fixture(scope="module")
def ceiling(dsn: str, request: pytest.FixtureRequest) -> PeerFigure:
    return run_peer("bare", dsn, SHORT_SECONDS if request.config.getoption("--short") else SECONDS / 2)


@pytest.mark.parametrize("name", [name for name in PEERS if name != "bare"])
def bench_peer(
    benchmark: Any, lab: Lab, dsn: str, ceiling: PeerFigure, name: str, record_property: Any, capsys: Any
) -> None:
    if PEERS[name].missing():
        with capsys.disabled(), pytest.raises(PeerMissing) as missing:
            run_peer(name, dsn, 1.0)
        with capsys.disabled():
            print(f"\n{missing.value}")
        benchmark.extra_info["missing"] = str(missing.value)
        benchmark.pedantic(lambda: None, rounds=1)
        return
    seconds = SHORT_SECONDS if lab.short else SECONDS
    found = benchmark.pedantic(lambda: run_peer(name, dsn, seconds), rounds=1, iterations=1)
    way = f"{found.mode} " if found.mode else ""
    lab.figure(
        f"peers.{name}", found.steps_per_s, "steps/s", beside=("bare insert", ceiling.steps_per_s),
        latency=Latency(found.p50_ms, found.p99_ms, found.p999_ms, found.samples),
        note=f"{name} {found.version}, best of {len(found.tried)} ways: {way}{found.concurrency} callers"
        f" in {found.processes} {'process' if found.processes == 1 else 'processes'}",
        params={"concurrent": found.concurrency, "processes": found.processes, "mode": found.mode},
        series={"tried": list(found.tried)},
        idle_p50_ms=found.idle_p50_ms, idle_p99_ms=found.idle_p99_ms, version=found.version, **found.checked,
    )  # fmt: skip
