"""One process of the soak: `python -m benchmarks.soak_load DSN SCHEMA OPTIONS`, with OPTIONS a JSON object.

It has an open engine, starts `rate` instances a second of the mix below (0: none, it only runs what others leave), and
writes a line of JSON to stdout every `every` seconds. End of file on stdin, or SIGTERM, stops it in good order.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pgdurable as pgd

# Steps of a plain instance, and of how many instances in a hundred are of the other kinds.
STEPS = 20
# Starts that may be under way. While the server is behind with so many, what is due is not started, and counted.
MOST_UNDER_WAY = 5_000
MIX = {"soak_plain": 86, "soak_transfer": 6, "soak_sleeper": 6, "soak_caller": 2}


@pgd.step(name="soak_step")
async def add_one(n: int) -> int:
    return n + 1


@pgd.transaction(name="soak_move")
async def move(tx: Any, source: int, target: int) -> int:
    await tx.execute("update public.soak_accounts set balance = balance - 1 where id = %s", (source,))
    await tx.execute("update public.soak_accounts set balance = balance + 1 where id = %s", (target,))
    return source


@pgd.workflow(name="soak_plain")
async def plain(n: int) -> int:
    for _ in range(STEPS):
        n = await add_one(n)
    return n


@pgd.workflow(name="soak_transfer")
async def transfer(n: int) -> int:
    source, target = sorted((int(pgd.random() * 500), 500 + int(pgd.random() * 500)))
    await add_one(n)
    await move(source, target)
    return await add_one(n)


@pgd.workflow(name="soak_sleeper")
async def sleeper(n: int) -> int:
    """Sleeps for longer than an idle instance stays in memory."""
    await add_one(n)
    await asyncio.sleep(0.5 + 12.0 * pgd.random())
    return await add_one(n)


@pgd.workflow(name="soak_caller")
async def caller(n: int) -> str:
    answer = await pgd.wait_signal("answer", timeout=60)
    await add_one(n)
    return str(answer)


WORKFLOWS = (plain, transfer, sleeper, caller)


class Load:
    """Starts instances at a rate, and answers those that call.

    What cannot be started in time, because too many starts are under way, is not made up for: a load that piles up
    in the loading process would be what grows.
    """

    def __init__(self, engine: pgd.Engine, rate: float) -> None:
        self.engine = engine
        self.rate = rate
        self.chance = random.Random(1)
        self.started = 0
        self.due = 0
        self.left_out = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        begun = time.perf_counter()
        while True:
            due = int((time.perf_counter() - begun) * self.rate)
            wanted, self.due = due - self.due, due
            number = max(min(wanted, MOST_UNDER_WAY - len(self)), 0)
            for kind in self.chance.choices(list(MIX), list(MIX.values()), k=number):
                self._spawn(self._start(kind))
            self.started += number
            self.left_out += wanted - number
            await asyncio.sleep(0.005)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, kind: str) -> None:
        handle = await self.engine.start(kind, 1)
        if kind == "soak_caller":
            await asyncio.sleep(1.0)
            with contextlib.suppress(pgd.InstanceFinished):  # it has waited in vain: counted as failed at the end
                await handle.signal("answer", "yes")

    def __len__(self) -> int:
        return len(self._tasks)


def process() -> dict[str, float]:
    """Of this process: resident bytes, open descriptors, threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    status = Path("/proc/self/status").read_text()
    threads = int(next(line for line in status.splitlines() if line.startswith("Threads:")).split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"), "descriptors": len(os.listdir("/proc/self/fd")), "threads": threads,
    }  # fmt: skip


async def main(dsn: str, schema: str, options: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    asked = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    ended = loop.create_task(asked.read())
    ended.add_done_callback(lambda _: over.set())
    async with pgd.Engine(dsn, schema=schema, workflows=WORKFLOWS) as engine:
        load = Load(engine, options["rate"])
        running = loop.create_task(load.run()) if options["rate"] else None
        steps, at = 0, time.perf_counter()
        while not over.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(over.wait(), options["every"])
            if running is not None and running.done():
                running.result()
            metrics, now = engine.metrics(), time.perf_counter()
            said = {
                "at": time.time(), **process(), "started": load.started, "left_out": load.left_out, "tasks": len(load),
                "steps_per_s": (metrics["steps_done"] - steps) / (now - at), "instances": metrics["instances"],
                "p50_ms": metrics["p50_ms"], "p99_ms": metrics["p99_ms"], "backlog": metrics["backlog"],
                "trouble": metrics["trouble"],
            }  # fmt: skip
            steps, at = metrics["steps_done"], now
            print(json.dumps(said), flush=True)
        if running is not None:
            running.cancel()


if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with whoever started it
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
