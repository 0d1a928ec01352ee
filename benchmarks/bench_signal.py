"""How long from sending a signal to the workflow's having it in hand, and how many a second?

From the call of `signal` to the moment at which the waiting workflow's code goes on with it: two commits (the
sender's, and the one that moves the signal into the instance's history) and the hint between them. In one process
(an engine signals an instance of its own) and across processes (a client here, the instance in a worker process).

Beside: a bare NOTIFY from one connection until another that listens has it. A NOTIFY stores nothing, so this is a
floor. Figure and floor take turns; `two_commits` says what two bare commits took right after. For signals/s: so many
senders at once, each with a connection, each awaiting one signal's commit before it sends the next; beside the NOTIFYs
that one connection sends and another receives, one after another.
"""

from __future__ import annotations

import asyncio
import select
import time
from typing import Any

import psycopg

import pgdurable as pgd
from benchmarks.figures import curve, latency
from benchmarks.lab import Lab
from benchmarks.worker import Worker, reached
from benchmarks.workflows import WOKEN, WORKFLOWS

TURNS = 10
IN_A_TURN = 30
SENDERS = 8
RECEIVERS = 64
SIGNALS = 8_000
PATIENCE_S = 60.0


class Notify:
    """Two connections, of which one listens."""

    def __init__(self, dsn: str) -> None:
        self.sender = psycopg.connect(dsn, autocommit=True)
        self.listener = psycopg.connect(dsn, autocommit=True)
        self.listener.execute("listen bench_bare")

    def __enter__(self) -> Notify:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.close()
        self.listener.close()

    def deliver(self, number: int) -> list[float]:
        """Seconds from sending each of so many, to its being there."""
        heard, took = self.listener.pgconn, []
        for _ in range(number):
            began = time.perf_counter()
            self.sender.execute("notify bench_bare")
            while heard.notifies() is None:
                select.select([heard.socket], [], [], PATIENCE_S)
                heard.consume_input()
            took.append(time.perf_counter() - began)
        return took

    def commit(self, number: int) -> list[float]:
        """Seconds of each of so many commits of next to nothing: how fast the disk is just now."""
        took = []
        for _ in range(number):
            began = time.perf_counter()
            self.sender.execute("select pg_logical_emit_message(true, 'bench', 'x')")
            took.append(time.perf_counter() - began)
        return took


def bench_same_process(benchmark: Any, lab: Lab) -> None:
    turns = 2 if lab.short else TURNS
    lab.calm()
    floor: list[float] = []
    took: list[float] = []

    async def all_turns() -> None:
        async with lab.engine(WORKFLOWS, park_after=3600) as engine:
            WOKEN.clear()
            handle = await engine.start("bench_echo", (turns + 1) * IN_A_TURN)
            number = 0
            for turn in range(turns + 1):  # the first is the warm-up
                bare = notify.deliver(IN_A_TURN)
                sent = []
                for _ in range(IN_A_TURN):
                    sent.append(time.time())
                    await handle.signal("ping", number)
                    number += 1
                    assert await reached(lambda: len(WOKEN) >= number, PATIENCE_S)  # noqa: B023
                if turn:
                    floor.extend(bare)
                    took.extend(at - sent[n - number] for n, at in WOKEN[-IN_A_TURN:])
            await handle.result()

    with Notify(lab.dsn) as notify:
        benchmark.pedantic(lambda: lab.run(all_turns()), rounds=1, iterations=1)
        commits = notify.commit(100)
    _figure(lab, "signal.same_process", took, floor, commits)


def bench_across_processes(benchmark: Any, lab: Lab) -> None:
    turns = 2 if lab.short else TURNS
    lab.calm()
    floor: list[float] = []
    took: list[float] = []

    async def all_turns() -> None:
        async with pgd.Client(lab.dsn, schema=lab.schema) as client:
            handle = await client.start("bench_echo", (turns + 1) * IN_A_TURN)
            number = 0
            for turn in range(turns + 1):
                bare = notify.deliver(IN_A_TURN)
                for _ in range(IN_A_TURN):
                    sent = time.time()
                    await handle.signal("ping", number)
                    [[_, at]] = worker.ask("woken", number=1, limit=PATIENCE_S)
                    number += 1
                    if turn:
                        took.append(at - sent)
                if turn:
                    floor.extend(bare)
            await handle.result()

    with Notify(lab.dsn) as notify, Worker(lab.dsn, lab.schema, park_after=3600) as worker:
        benchmark.pedantic(lambda: lab.run(all_turns()), rounds=1, iterations=1)
        commits = notify.commit(100)
    _figure(lab, "signal.across_processes", took, floor, commits)


def _figure(lab: Lab, name: str, took: list[float], floor: list[float], commits: list[float]) -> None:
    one, bare = latency(took), latency(floor)
    lab.figure(f"{name}.two_commits", 2 * latency(commits).p50_ms, "ms", note="the part of it that is the disk's")
    lab.figure(
        name, one.p50_ms, "ms", latency=one, beside=("bare NOTIFY", bare.p50_ms),
        note=f"median of {one.count} signals, one at a time",
        series={"signal": curve(took), "bare NOTIFY": curve(floor)}, bare_p99_ms=bare.p99_ms,
    )  # fmt: skip


def bench_rate(benchmark: Any, lab: Lab) -> None:
    signals = 800 if lab.short else SIGNALS
    each = signals // RECEIVERS

    async def send_all(worker: Worker) -> tuple[float, list[float]]:
        sent: dict[int, float] = {}
        clients = [pgd.Client(lab.dsn, schema=lab.schema) for _ in range(SENDERS)]
        for client in clients:
            await client.open()
        ids = [(await clients[0].start("bench_echo", each)).id for _ in range(RECEIVERS)]

        async def sender(number: int) -> None:
            mine = [await clients[number].get(id) for id in ids[number::SENDERS]]
            for turn in range(each):
                for at, handle in enumerate(mine):
                    signal = (turn * len(mine) + at) * SENDERS + number
                    sent[signal] = time.time()
                    await handle.signal("ping", signal)

        await asyncio.gather(*(sender(number) for number in range(SENDERS)))
        woken = worker.ask("woken", number=len(sent), limit=PATIENCE_S)
        assert len(woken) == len(sent) == each * RECEIVERS, f"{len(woken)} of {len(sent)} signals arrived"
        for client in clients:
            await client.close()
        return max(at for _, at in woken) - min(sent.values()), [at - sent[number] for number, at in woken]

    with Worker(lab.dsn, lab.schema, park_after=3600) as worker, Notify(lab.dsn) as notify:
        floor: list[float] = []

        def before() -> None:
            lab.calm()
            floor.append(sum(notify.deliver(300)) / 300)

        found = lab.rounds(benchmark, lambda: lab.run(send_all(worker)), before=before)
    seconds, took = min(found, key=lambda one: one[0])
    lab.figure(
        "signal.rate", len(took) / seconds, "signals/s", latency=latency(took),
        beside=("bare NOTIFY, one by one", 1 / min(floor)),
        note=f"best of {len(found)} rounds, {SENDERS} senders, {RECEIVERS} instances in another process",
        params={"senders": SENDERS, "receivers": RECEIVERS},
    )  # fmt: skip
