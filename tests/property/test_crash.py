"""Random workflows on a real server, whose engine crashes at random moments, give the result of the crash-free run.

The crash is one within this process: the engine's connections close with whatever is under way in them, its memory is
forgotten, nothing is drained, and its lease is declared lost by the statement other workers use. Real ones (kill -9)
are in tests/crash; here there can be hundreds.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import pgdurable as pgd
from pgdurable._engine.tasks import end_tasks
from pgdurable.workflow import Workflow
from tests.property.programs import executions, listeners, nodes, programs, run_blocking, run_program
from tests.property.test_replay import untimed_outcome

PATIENCE_S = 20.0


async def program(node: dict[str, Any], tag: int) -> Any:
    return await run_program(node, tag)


def blocking_program(node: dict[str, Any], tag: int) -> Any:
    return run_blocking(node, tag)


definition = Workflow(program)
blocking_definition = Workflow(blocking_program)


class Crashing:
    """One engine after the other on one schema."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self.engine = self._engine()
        self.completed: set[tuple[int, int]] = set()
        self.looked = 0
        self.again: list[tuple[int, int]] = []

    def _engine(self) -> pgd.Engine:
        return pgd.Engine(
            self.dsn,
            schema=self.schema,
            migrate=True,
            workflows=[definition, blocking_definition],
            poll_interval=0.05,
            park_after=0.02,
        )

    async def crash(self, instances: list[Any]) -> None:
        """Ends the engine as a crash would, fences it, and lets a new one take over."""
        old = self.engine
        worker = old._worker
        assert worker is not None
        host = worker.host
        for task in [*worker._tasks, *([worker._incarnation.rejoining] if worker._incarnation.rejoining else [])]:
            task.cancel()
        host.fenced = True
        await worker.journal.discard()
        host.drop_everything()
        await end_tasks(*worker._tasks, worker._incarnation.rejoining)  # once is not enough before Python 3.12
        await host.transactions.close()
        host.threads.shutdown(wait=False, cancel_futures=True)
        old._worker = None
        await old.close()
        await asyncio.to_thread(self._take_over, host.worker)
        await self.look(instances)
        self.engine = self._engine()
        await self.engine.open()

    def _take_over(self, worker: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while time.monotonic() < deadline:
                row = conn.execute(
                    f"select state, {self.schema}.take_over(id, beat, null) from {self.schema}.workers where id = %s",
                    (worker,),
                ).fetchone()
                if row is None or row[0] == "dead" or row[1]:
                    return
        raise AssertionError(f"worker {worker} cannot be taken over")

    async def look(self, instances: list[Any]) -> None:
        """Notes which steps have a checkpoint by now, and whether any ran again that had one before."""
        fresh, self.looked = executions[self.looked :], len(executions)
        self.again += [step for step in fresh if step in self.completed]
        async with await psycopg.AsyncConnection.connect(self.dsn) as conn:
            cursor = await conn.execute(
                f"select instance_id, coalesce(payload->>-1, error->'args'->>-1)::int from {self.schema}.history"
                " where kind = 'step' and instance_id = any (%s)",
                (instances,),
            )
            for instance, label in await cursor.fetchall():
                self.completed.add((instances.index(instance), label))


async def reached(count: int, done: asyncio.Task[Any]) -> None:
    """Waits until so many steps have been begun, or everything has ended."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> None:
        if len(executions) >= count:
            loop.call_soon_threadsafe(event.set)

    listeners.append(look)
    look()
    waiter = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiter, done], return_when=asyncio.FIRST_COMPLETED, timeout=0.3)
    finally:
        listeners.remove(look)
        waiter.cancel()


async def send_signals(handles: list[Any], batch: list[Any], rng: random.Random) -> None:
    signals = [
        (handle, f"s{node['label']}")
        for handle, program in zip(handles, batch, strict=True)
        for node in nodes(program)
        if node["do"] == "signal"
    ]
    # Of one instance in any order: each has a name of its own.
    rng.shuffle(signals)
    for handle, name in signals:
        try:
            await handle.signal(name, name)
        except pgd.InstanceFinished:
            pass  # its wait was given up
        if rng.random() < 0.3:
            await asyncio.sleep(rng.random() * 0.03)


async def outcome(handle: Any) -> Any:
    try:
        return "completed", await handle.result(timeout=PATIENCE_S)
    except pgd.InstanceFailed as error:
        return "failed", str(error.type).rpartition(".")[2], "boom"
    except (pgd.InstancePaused, TimeoutError) as error:
        return type(error).__name__, str(error)


async def all_outcomes(handles: list[Any]) -> list[Any]:
    return await asyncio.gather(*(outcome(handle) for handle in handles))


async def run(
    dsn: str, schema: str, batch: list[Any], threaded: int, crashes: list[tuple[int, int]], seed: int
) -> tuple[Any, Any]:
    """Outcomes, and steps that ran again. The last `threaded` programs are for `def` workflows."""
    rng = random.Random(seed)
    crashing = Crashing(dsn, schema)
    await crashing.engine.open()
    try:
        async with pgd.Client(dsn, schema=schema) as client:
            inputs = [(node, n) for n, node in enumerate(batch)]
            first = len(batch) - threaded
            started = await crashing.engine.start_many(definition, inputs[:first])
            started += await crashing.engine.start_many(blocking_definition, inputs[first:])
            instances = [handle.instance_id for handle in started]
            handles = [await client.get(instance) for instance in instances]
            sending = asyncio.ensure_future(send_signals(handles, batch, rng))
            done = asyncio.ensure_future(all_outcomes(handles))
            for steps, turns in crashes:
                await reached(len(executions) + steps, done)
                for _ in range(turns):
                    await asyncio.sleep(0)
                await crashing.crash(instances)
            await sending
            outcomes = await done
            await crashing.look(instances)
    finally:
        await crashing.engine.close()
    return outcomes, crashing.again


@settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a timing is not reproduced, so shrinking takes minutes
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    batch=st.lists(programs(timed=False, most_nodes=16), min_size=3, max_size=12),
    blocking=st.lists(programs(timed=False, blocking=True, most_nodes=8), max_size=4),
    crashes=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 12)), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_crashed_engines_give_the_crash_free_result(
    dsn: str, schema: str, batch: list[Any], blocking: list[Any], crashes: list[tuple[int, int]], seed: int
) -> None:
    expected = [untimed_outcome(node) for node in batch]
    expected += [untimed_outcome(node, fn=run_blocking) for node in blocking]
    executions.clear()
    found, again = asyncio.run(run(dsn, schema, batch + blocking, len(blocking), crashes, seed))
    note(f"{len(executions)} executions, {len(crashes)} crashes")
    for node, wanted, got in zip(batch + blocking, expected, found, strict=True):
        assert got == wanted, node
    assert again == [], "steps ran again that had a checkpoint"
