"""How fast do instances run again: after a claim, and after kill -9 of the worker that had them?

`bench_replay`: instances of ten recorded steps each are free in the database. An engine opens, claims them, loads their
history and replays it. Figures: instances and history rows a second, from the opening to the last one's running again.

`bench_kill`: a worker process has 50,000 instances in hand, each of which has done three steps and waits. Another
worker process stands by. The first is killed with SIGKILL. Measured from the kill to the moment at which the code of
the last instance runs again in the other process, in phases: noticed (its session is gone), taken over (declared
dead), claimed, loaded, replayed (the last of each: they overlap).

`bench_kill_everything`: two worker processes with 25,000 such instances each, and every process of their server, are
killed with SIGKILL. Server and two new workers are started at once. Measured from the moment the server accepts a
connection, to the last instance's running again; the server's own recovery is a figure of its own.

Beside all: merely reading the same rows, in the same batches, by the same queries, over one bare connection.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.figures import latency, spread
from benchmarks.lab import Lab
from benchmarks.worker import Worker, reached
from benchmarks.workflows import RESUMED, WORKFLOWS
from pgdurable._store.migrations import migrate
from pgdurable._store.sql import named_queries
from pgdurable.embedded import EmbeddedServer

STEPS = 10
INSTANCES = 10_000
ACTIVE = 50_000
ACTIVE_STEPS = 3
BATCH = 500
PATIENCE_S = 120.0


def read_everything(lab: Lab) -> float:
    """Seconds to read all instances' history rows as the engine does, without looking at them."""
    query = named_queries("worker", lab.schema)["load_history"].replace("%s", "$1")
    with psycopg.connect(lab.dsn, autocommit=True) as conn:
        ids = [str(row[0]) for row in conn.execute(f"select id from {lab.schema}.instances order by id")]
        batches = [("{" + ",".join(ids[n : n + BATCH]) + "}").encode() for n in range(0, len(ids), BATCH)]
        conn.pgconn.prepare(b"read", query.encode())
        began = time.perf_counter()
        for batch in batches:
            result = conn.pgconn.exec_prepared(b"read", [batch])
            assert result.ntuples > 0, result.error_message
        return time.perf_counter() - began


async def make_instances(lab: Lab, number: int) -> None:
    """One instance for real, and as many more with its very rows under other ids."""
    async with lab.engine(WORKFLOWS, park_after=3600) as engine:
        RESUMED.clear()
        await engine.start("bench_stepper", STEPS)
        assert await reached(lambda: len(RESUMED) == 1, PATIENCE_S)
    columns = "created_at, started_at, wake_at, workflow, version, status, input"
    row = "recorded_at, event_id, seq, fingerprint, elapsed_ms, attempt, kind, name, payload, error"
    lab.execute(
        "create table @.one_instance as select * from @.instances",
        "create table @.its_history as select * from @.history",
        f"insert into @.instances (id, {columns}) select @.new_id(), {columns}"
        f" from @.one_instance, generate_series(2, {number})",
        f"insert into @.history (instance_id, {row}) select i.id, {', '.join('s.' + c for c in row.split(', '))}"
        " from @.instances i, @.its_history s where i.id <> s.instance_id",
    )


def bench_replay(benchmark: Any, lab: Lab) -> None:
    number = 1_000 if lab.short else INSTANCES
    reading: list[float] = []

    def free_all() -> None:
        lab.execute("update @.instances set status = 'waiting', owner = null, wake_at = now() - interval '1 second'")
        lab.calm()
        reading.append(read_everything(lab))

    async def resume_all() -> list[float]:
        RESUMED.clear()
        began = time.perf_counter()
        async with lab.engine(WORKFLOWS, max_instances=number + 1, park_after=3600):
            assert await reached(lambda: len(RESUMED) == number, PATIENCE_S)
            return [at - began for at in RESUMED]

    lab.run(make_instances(lab, number))
    free_all()
    lab.run(resume_all())  # warm-up
    reading.clear()
    found = lab.rounds(benchmark, lambda: lab.run(resume_all()), before=free_all)
    best = min(found, key=max)
    note = f"best of {len(found)} rounds, {number} instances of {STEPS} steps"
    for name, unit, each in (("resume.instances", "instances/s", 1), ("resume.history", "rows/s", STEPS)):
        lab.figure(
            name, number * each / max(best), unit, latency=latency(best), note=note,
            beside=("reading the rows", number * each / min(reading)),
            params={"instances": number, "steps": STEPS},
            rounds=spread([number * each / max(one) for one in found]),
        )  # fmt: skip


def bench_kill(benchmark: Any, lab: Lab) -> None:
    number = 2_000 if lab.short else ACTIVE
    options: dict[str, Any] = {"max_instances": number + 1000, "park_after": 3600}

    def kill_and_wait(first: Worker, second: Worker) -> tuple[float, dict[str, Any]]:
        return first.kill(), second.ask("until_resumed", number=number, limit=PATIENCE_S)

    with Worker(lab.dsn, lab.schema, **options) as first, Worker(lab.dsn, lab.schema, trace=True, **options) as second:
        first.ask("start_many", workflow="bench_stepper", argument=ACTIVE_STEPS, number=number)
        assert len(first.ask("until_resumed", number=number, limit=PATIENCE_S)["at"]) == number
        lab.calm()
        reading = read_everything(lab)
        time.sleep(2.5)  # what is killed and who notices have seen each other alive
        killed, found = benchmark.pedantic(kill_and_wait, args=(first, second), rounds=1, iterations=1)
        assert len(found["at"]) == number, f"{number - len(found['at'])} instances do not run again"
    took = latency([at - killed for at in found["at"]])
    phases = found["phases"]
    lab.figure(
        "resume.kill", max(found["at"]) - killed, "s", latency=took, beside=("reading the rows", reading),
        note=f"{number} instances, {number * ACTIVE_STEPS} history rows, one kill",
        params={"instances": number, "steps": ACTIVE_STEPS},
        **{f"{name}_s": phases[f"{name}_s"] for name in ("claim", "load", "replay")},
    )  # fmt: skip
    moments = {
        "noticed": phases["noticed_at"],
        "taken_over": phases["declared_at"],
        "first_runs": min(found["at"]),
        "claimed": phases["claimed_at"],
        "loaded": phases["loaded_at"],
    }
    for name, at in moments.items():
        lab.figure(f"resume.kill.{name}", at - killed, "s", note="from the kill; of many, the last")


def kill_server(server: EmbeddedServer) -> None:
    """SIGKILL to the server and each of its processes; returns when they are gone."""
    head = server.pid
    assert head is not None
    every = [head, *(int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if parent_of(stat) == head)]
    for pid in every:
        os.kill(pid, signal.SIGKILL)
    # Also from the list of processes: else the server would take its old self for alive. Some systems take their time.
    while any(Path(f"/proc/{pid}").exists() for pid in every):
        time.sleep(0.01)


def parent_of(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0  # has just ended


def accepts(dsn: str) -> float:
    """Waits until the server accepts a connection; the time at which it did."""
    while True:
        try:
            psycopg.connect(dsn, autocommit=True).close()
        except psycopg.OperationalError:
            time.sleep(0.005)
        else:
            return time.time()


def bench_kill_everything(benchmark: Any, lab: Lab) -> None:
    number = 2_000 if lab.short else ACTIVE
    options: dict[str, Any] = {"max_instances": number + 1000, "park_after": 3600}

    with EmbeddedServer(settings={"max_connections": "200"}) as server:
        migrate(server.dsn, lab.schema)
        before = [Worker(server.dsn, lab.schema, **options) for _ in range(2)]
        for worker in before:
            worker.ask("start_many", workflow="bench_stepper", argument=ACTIVE_STEPS, number=number // 2)
            worker.ask("until_resumed", number=number // 2, limit=PATIENCE_S)
        time.sleep(2.5)
        after: list[Worker] = []

        def kill_and_wait() -> tuple[float, float, list[dict[str, Any]]]:
            for worker in before:
                worker.kill()
            kill_server(server)
            killed = time.time()
            starting = threading.Thread(target=server.start)
            starting.start()
            after.extend(Worker(server.dsn, lab.schema, wait=False, trace=True, **options) for _ in range(2))
            up = accepts(server.dsn)
            starting.join()
            for worker in after:
                worker.up()
            deadline = time.monotonic() + PATIENCE_S
            while sum(worker.ask("count")["resumed"] for worker in after) < number and time.monotonic() < deadline:
                time.sleep(0.02)
            return killed, up, [worker.ask("until_resumed", number=0, limit=0.0) for worker in after]

        try:
            killed, up, found = benchmark.pedantic(kill_and_wait, rounds=1, iterations=1)
        finally:
            for worker in before + after:
                worker.kill()
    at = [moment for one in found for moment in one["at"]]
    assert len(at) == number, f"{number - len(at)} instances do not run again"
    lab.figure(
        "resume.kill_everything", max(at) - up, "s", latency=latency([moment - up for moment in at]),
        note=f"{number} instances on two workers; from the server's accepting connections",
        params={"instances": number, "steps": ACTIVE_STEPS, "workers": 2, "each": [len(one["at"]) for one in found]},
    )  # fmt: skip
    phases = [one["phases"] for one in found]
    moments = {
        "joined": max(phase["joined_at"] for phase in phases),
        "taken_over": max(phase["declared_at"] for phase in phases if "declared_at" in phase),
        "first_runs": min(at),
        "claimed": max(phase["claimed_at"] for phase in phases if "claimed_at" in phase),
        "loaded": max(phase["loaded_at"] for phase in phases if "loaded_at" in phase),
    }
    lab.figure("resume.kill_everything.recovery", up - killed, "s", note="the server's own, from the kill")
    for name, moment in moments.items():
        lab.figure(f"resume.kill_everything.{name}", moment - up, "s", note="from accepting; of many, the last")
