"""The workflows that the benchmarks of waiting, resuming and signals run, here and in worker processes."""

from __future__ import annotations

import asyncio
import time

import pgdurable as pgd

__all__ = ["RESUMED", "WOKEN", "WORKFLOWS", "echo", "queued", "sleeper", "stepper", "waiter"]

# perf_counter() when the code of an instance got to its wait: live, and again in replay.
RESUMED: list[float] = []
# (number of the signal, time.time()) when an instance had a signal in hand.
WOKEN: list[tuple[int, float]] = []


@pgd.step(name="bench_step")
async def add_one(n: int) -> int:
    return n + 1


@pgd.workflow(name="bench_stepper", version="1")
async def stepper(steps: int) -> int:
    """Some steps, then a wait for a signal: what a worker has in hand when it is killed."""
    n = 0
    for _ in range(steps):
        n = await add_one(n)
    RESUMED.append(time.perf_counter())
    await pgd.wait_signal("go")
    return n


@pgd.workflow(name="bench_waiter", version="1")
async def waiter(n: int) -> int:
    """Waits for a signal, and for nothing else."""
    await pgd.wait_signal("go")
    return n


@pgd.workflow(name="bench_sleeper", version="1")
async def sleeper(seconds: float) -> float:
    """Sleeps for long."""
    await asyncio.sleep(seconds)
    return seconds


@pgd.workflow(name="bench_echo", version="1")
async def echo(signals: int) -> int:
    """Notes when it has each of so many signals, which carry their number."""
    for _ in range(signals):
        number = await pgd.wait_signal("ping")
        WOKEN.append((number, time.time()))
    return signals


@pgd.workflow(name="bench_queued", version="1")
async def queued(number: int) -> int:
    """Notes when it runs."""
    WOKEN.append((number, time.time()))
    return number


WORKFLOWS = (stepper, waiter, sleeper, echo, queued)
