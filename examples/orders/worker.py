"""A worker: a process that runs the shop's orders. Start as many as you like; `python -m examples.orders.worker DSN`.

It runs until Ctrl-C, or until its standard input is closed (so that it does not outlive the demo that started it).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

import pgdurable as pgd

from . import workflows


async def main(dsn: str | None, name: str | None) -> None:
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read_to_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(closed.set)

    everything = [workflows.order, workflows.packed, workflows.closing]
    async with pgd.Engine(dsn, workflows=everything, name=name) as engine:
        await workflows.set_up(engine)
        threading.Thread(target=read_to_end, daemon=True).start()
        await closed.wait()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", format="%(asctime)s %(name)s: %(message)s")
    arguments: list[str | None] = [*sys.argv[1:3], None, None]
    try:
        asyncio.run(main(arguments[0], arguments[1]))
    except KeyboardInterrupt:
        pass
