"""A worker process of the bank: runs workflows, and orders some itself, until SIGTERM; ``python -m chaos.worker``.

What it needs comes as JSON in its one argument. Apart from that it is anybody's worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import random
import signal
import sys
from typing import Any

import pgdurable as pgd

from . import bank, kinds, mutations
from .customer import Customer
from .history import History


async def report(engine: pgd.Engine, history: History) -> None:
    """Notes under which incarnations it works; and what it takes for the time."""
    known = None
    while True:
        worker = incarnation(engine)
        if worker is not None and worker != known:
            history.note("joined", worker=worker)
            known = worker
        await asyncio.sleep(0.02)


async def tick(history: History) -> None:
    while True:
        history.note("tick")
        await asyncio.sleep(0.5)


def incarnation(engine: pgd.Engine) -> int | None:
    place = engine._worker
    return None if place is None else place.host.worker


async def opened(engine: pgd.Engine, stop: asyncio.Event) -> bool:
    """Opens the engine however long the server is away. Returns whether it has been told to stop instead."""
    while not stop.is_set():
        try:
            await engine.open()
            return True
        except pgd.ConnectionFailed as error:
            logging.warning("cannot begin yet: %s", error)
            await asyncio.sleep(0.2)
    return False


async def when_quiet(tasks: list[asyncio.Task[None]], history: History) -> None:
    """Notes that its customers have ended their last conversations."""
    await asyncio.wait(tasks)
    history.note("quiet")


async def main(told: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    closing = asyncio.Event()  # no more orders
    loop.add_signal_handler(signal.SIGUSR1, closing.set)
    history = History(told["history"], told["name"])
    os.environ["CHAOS_HISTORY"] = str(told["history"])  # for processes of steps
    generation = told["generation"]
    mutations.apply(told["mutation"], told["schema"])
    engine = pgd.Engine(
        told["dsn"], schema=told["schema"], name=told["name"], lease=told["lease"], park_after=0.2, poll_interval=0.3,
        workflows=kinds.workflows_of(generation), pumps=told["pumps"],
    )  # fmt: skip
    bank.site = bank.Site(
        history, told["shop"], lambda: incarnation(engine), random.Random(f"{told['seed']} {told['name']}")
    )
    history.note("began", pid=os.getpid(), generation=generation)
    ticking = loop.create_task(tick(history))
    if await opened(engine, stop):
        reporter = loop.create_task(report(engine, history))
        customers = [
            Customer(
                engine, history, name=f"{told['name']}.{n}", seed=told["seed"], generation=generation, letters=False
            )
            for n in range(told["customers"])
        ]
        tasks = [loop.create_task(customer.run(closing)) for customer in customers]
        quiet = loop.create_task(when_quiet(tasks, history))
        await stop.wait()
        quiet.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.close()
        reporter.cancel()
    ticking.cancel()
    history.note("stopped")


if __name__ == "__main__":
    # Dies with whoever started it, also when that is killed and while this is stopped.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    asyncio.run(main(json.loads(sys.argv[1])))
