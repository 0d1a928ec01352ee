"""The load that `bench` and the benchmarks put on an engine, through its public interface only."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import psycopg

from pgdurable.engine import Engine
from pgdurable.errors import PgDurableError
from pgdurable.workflow import Step, Transaction, Workflow

__all__ = ["STEPS", "WORKFLOWS", "Round", "closed_loop", "many_steps", "many_transactions", "quantile"]

STEPS = 10

# How long each `await step()` took, as the workflow saw it. Emptied and read by `closed_loop`.
_felt: list[float] = []


async def _work(n: int) -> int:
    return n + 1


def _work_in_thread(n: int) -> int:
    return n + 1


async def _fill(n: int, size: int) -> str:
    return _text(size)


@lru_cache
def _text(size: int) -> str:
    """A text of that many bytes that neither TOAST nor WAL can compress much."""
    return base64.b64encode(random.Random(size).randbytes(size)).decode()[:size]


async def _change(tx: psycopg.AsyncConnection[Any], table: str, row: int) -> int:
    await tx.execute(f"update {table} set n = n + 1 where id = %s", (row,))
    return row


work = Step(_work, name="work")
work_in_thread: Step[Any, Any] = Step(_work_in_thread, name="work_in_thread")
fill = Step(_fill, name="fill")
change: Transaction[Any, Any] = Transaction(_change, name="change")


async def _many_steps(steps: int, kind: str = "async", size: int = 0) -> int:
    felt, clock = _felt.append, time.perf_counter
    n = 0
    for _ in range(steps):
        began = clock()
        if size:
            await fill(n, size)
            n += 1
        elif kind == "def":
            n = await work_in_thread(n)
        else:
            n = await work(n)
        felt(clock() - began)
    return n


async def _many_transactions(steps: int, table: str, row: int) -> int:
    felt, clock = _felt.append, time.perf_counter
    for _ in range(steps):
        began = clock()
        await change(table, row)
        felt(clock() - began)
    return steps


# Made without the decorator: importing this module registers nothing, so a worker does not run them by accident.
many_steps = Workflow(_many_steps, name="bench_steps")
many_transactions = Workflow(_many_transactions, name="bench_transactions")
WORKFLOWS = (many_steps, many_transactions)


@dataclass
class Round:
    """What one round of load showed.

    Attributes:
        instances, steps: how many ended; all steps of all instances.
        seconds: wall time, from the first start to the last result.
        felt: seconds of each step, from its call in the workflow to its durable result in the workflow's hands.
        metrics: `Engine.metrics()` at the end, of this engine's whole life.
    """

    instances: int
    steps: int
    seconds: float
    felt: list[float] = field(repr=False)
    metrics: dict[str, Any]

    @property
    def steps_per_s(self) -> float:
        return self.steps / self.seconds

    @property
    def rows_per_commit(self) -> float:
        """History rows in an average commit."""
        return float(self.metrics["history_rows"] / max(self.metrics["flushes"], 1))


async def closed_loop(
    engine: Engine,
    workflow: Workflow[Any, Any],
    arguments: Sequence[Any],
    *,
    concurrent: int,
    instances: int | None = None,
    seconds: float | None = None,
    rows: int = 0,
) -> Round:
    """So many callers, each of which starts an instance, awaits its result and starts the next.

    Args:
        workflow, arguments: what they start; the first argument is the number of steps.
        concurrent: callers.
        instances: how many in all; or
        seconds: how long they go on starting.
        rows: with it, caller k of those passes row k modulo `rows` as one more argument.
    Raises:
        PgDurableError: an instance gave another result than the number of its steps.
    """
    steps = arguments[0]
    _felt.clear()
    left = instances
    ended = 0
    loop_time = time.perf_counter
    until = None if seconds is None else loop_time() + seconds

    async def caller(number: int) -> None:
        nonlocal left, ended
        more = (number % rows,) if rows else ()
        while left is None or left > 0:
            if until is not None and loop_time() >= until:
                return
            if left is not None:
                left -= 1
            handle = await engine.start(workflow, *arguments, *more)
            result = await handle.result()
            if result != steps:
                raise PgDurableError(f"instance {handle.id} gave {result}, expected {steps}")
            ended += 1

    began = loop_time()
    await asyncio.gather(*(caller(number) for number in range(concurrent)))
    took = loop_time() - began
    return Round(ended, ended * steps, took, _felt.copy(), dict(engine.metrics()))


def quantile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that is not exceeded by this share of them (nearest rank)."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples")
    rank = -(-share * len(ordered) // 1)
    return ordered[max(int(rank) - 1, 0)]
