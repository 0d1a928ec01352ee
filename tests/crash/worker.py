"""A process that runs the workflows until it is killed: ``python -m tests.crash.worker DSN SCHEMA [LEASE]``.

It reads starts as JSON lines from stdin and says on stdout when each has been acknowledged; end of file stops it
in good order. Written like anybody's worker: it knows nothing of the tests.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
from typing import Any

import pgdurable as pgd

from . import workflows


def say(**what: Any) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


async def start(engine: pgd.Engine, order: dict[str, Any]) -> None:
    handle = await engine.start(workflows.WORKFLOWS[order["workflow"]], *order["args"], id=order["key"])
    say(ack=order["token"], id=str(handle.instance_id))


async def report(engine: pgd.Engine) -> None:
    """Tells under which ids it has worked, and goes on telling."""
    known = None
    while True:
        place = engine._worker
        worker = known if place is None or place.host.fenced else place.membership.worker
        if worker != known:
            known = worker
            say(worker=worker)
        await asyncio.sleep(0.02)


async def main(dsn: str, schema: str, lease: float) -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    async with pgd.Engine(dsn, schema=schema, lease=lease, park_after=0.1, poll_interval=0.3) as engine:
        reporter = loop.create_task(report(engine))
        tasks = set()
        while line := await orders.readline():
            task = loop.create_task(start(engine, json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        reporter.cancel()
    say(closed=True)


if __name__ == "__main__":
    # Dies with whoever started it, also when that is killed and while this is stopped.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 3.0))
